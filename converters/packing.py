"""Modules with ranks and scales of their own ↔ mlx-lm's format, which has one of each.

mlx-lm's file has one rank R and one scale s. A module of rank r < R is padded with
zeros: (in, r) → (in, R) and (r, out) → (R, out), which leaves a·b as it is. A module
of scale t has b multiplied by t / s. mlx-lm then computes the same update, and the
modules' own values are recorded beside, so that the way back is exact:

- s is chosen from the modules' scales so that as many factors t / s as possible are
  powers of two, not below one: such a product changes only exponents, and division
  gives the original bits back.
- If b would become infinite that way (float16 ends at 65504), s is the largest scale.
- Where multiplication does lose a bit (scales like 1 and 4/3), the original b is kept
  in a second file that mlx-lm does not read. It counts only while it still gives the
  stored product, bit for bit.

Padding stays zero if mlx-lm trains on: with a and b both zero, so are the gradients
of both.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import mlx.core as mx
import numpy as np

from converters.adapter import LoraModule, Shape
from converters.errors import ConversionError


@dataclass(frozen=True)
class Packed:
    """An adapter as mlx-lm stores it.

    Attributes:
        rank: R, the largest rank.
        scale: s, the common scale.
        tensors: ``<module>.lora_a|lora_b|m`` → array, for ``adapters.safetensors``.
        own: module → its own rank, scale and alpha; empty if all share R and s.
        originals: ``<module>.lora_b`` → array that its product does not give back.
    """

    rank: int
    scale: float
    tensors: dict[str, mx.array]
    own: dict[str, Shape]
    originals: dict[str, mx.array]


def pack(modules: Mapping[str, LoraModule]) -> Packed:
    """Bring ``modules`` to one rank and one scale.

    Raises:
        ConversionError: there is no module, or a scale is not a positive number.
    """
    if not modules:
        raise ConversionError("the adapter has no module; there is nothing to write.")
    for name, module in modules.items():
        if not (math.isfinite(module.scale) and module.scale > 0):
            raise ConversionError(
                f"{name} has the scale {module.scale}; expected a positive number."
            )
    rank = max(module.rank for module in modules.values())
    scale = common_scale([module.scale for module in modules.values()])
    if not all(_fits(module, module.scale / scale) for module in modules.values()):
        # Nothing grows then, and what becomes too small has its original beside it.
        scale = max(module.scale for module in modules.values())
    tensors: dict[str, mx.array] = {}
    originals: dict[str, mx.array] = {}
    for name, module in modules.items():
        factor = module.scale / scale
        b = scaled(module.b, factor)
        if factor != 1 and not same_bits(_over(b, factor), module.b):
            originals[f"{name}.lora_b"] = module.b
        stored = replace(module, a=_padded(module.a, rank, axis=1), b=_padded(b, rank, axis=0))
        tensors |= {f"{name}.{leaf}": array for leaf, array in stored.tensors.items()}
    own = {name: module.shape for name, module in modules.items()}
    if all((shape.rank, shape.scale) == (rank, scale) for shape in own.values()):
        own = {}
    return Packed(rank, scale, tensors, own, originals)


def unpack(
    modules: Mapping[str, LoraModule],
    own: Mapping[str, Shape],
    originals: Mapping[str, mx.array],
) -> dict[str, LoraModule]:
    """The modules as they were before ``pack``.

    Args:
        modules: what the file holds, all with its one rank and scale.
        own: the record of each module's own values; may be empty.
        originals: what ``pack`` returned under that name.

    Raises:
        ConversionError: record and tensors do not fit each other.
    """
    if not own:
        return dict(modules)
    if own.keys() != modules.keys():
        different = sorted(own.keys() ^ modules.keys())
        raise ConversionError(
            "the recorded ranks and the tensors are of different modules: "
            f"{', '.join(different[:10])}; copy the adapter again."
        )
    return {
        name: _unpacked(name, module, own[name], originals.get(f"{name}.lora_b"))
        for name, module in modules.items()
    }


def common_scale(scales: list[float]) -> float:
    """The scale s that makes most factors t / s powers of two, and none of those below 1."""
    classes: dict[float, list[float]] = {}
    for scale in scales:
        # frexp gives scale = mantissa · 2^exponent; equal mantissas differ by a power of 2.
        classes.setdefault(math.frexp(scale)[0], []).append(scale)
    commonest = max(len(members) for members in classes.values())
    return min(min(members) for members in classes.values() if len(members) == commonest)


def _unpacked(
    name: str, module: LoraModule, own: Shape, original: mx.array | None
) -> LoraModule:
    rank, scale = own.rank, own.scale
    if rank > module.rank:
        raise ConversionError(
            f"{name} has the recorded rank {rank} and tensors of rank {module.rank}; copy the "
            "adapter again."
        )
    if mx.any(module.a[:, rank:]).item() or mx.any(module.b[rank:]).item():
        raise ConversionError(
            f"{name} has the recorded rank {rank}, but values beyond it; "
            "copy the adapter again."
        )
    a, b = mx.contiguous(module.a[:, :rank]), mx.contiguous(module.b[:rank])
    factor = scale / module.scale
    if factor != 1:
        if original is None:
            b = _over(b, factor)
        elif same_bits(scaled(original, factor), b):
            b = original
        else:
            raise ConversionError(
                f"{name}.lora_b was changed after its original was set aside; remove the file "
                "of originals to use the values as they are."
            )
    return LoraModule(a, b, scale, own.alpha, module.m)


def _padded(array: mx.array, rank: int, *, axis: int) -> mx.array:
    missing = rank - array.shape[axis]
    if not missing:
        return array
    shape = list(array.shape)
    shape[axis] = missing
    return mx.concatenate([array, mx.zeros(shape, array.dtype)], axis=axis)


def scaled(array: mx.array, factor: float) -> mx.array:
    """``array`` times ``factor``, rounded once to its own dtype."""
    return array if factor == 1 else _rounded(_wide(array) * factor, array.dtype)


def _fits(module: LoraModule, factor: float) -> bool:
    """Whether ``b`` times ``factor`` stays finite where ``b`` is."""
    lost = mx.isfinite(module.b) & ~mx.isfinite(scaled(module.b, factor))
    return not mx.any(lost).item()


def _over(array: mx.array, factor: float) -> mx.array:
    return _rounded(_wide(array) / factor, array.dtype)


def _wide(array: mx.array) -> np.ndarray:
    return np.array(array.astype(mx.float32)).astype(np.float64)


def _rounded(values: np.ndarray, dtype: mx.Dtype) -> mx.array:
    """Round in numpy, on the CPU: GPUs may flush the smallest numbers to zero.

    What is too large for ``dtype`` becomes infinite.
    """
    with np.errstate(over="ignore"):
        if dtype == mx.float16:
            return mx.array(values.astype(np.float16))
        single = mx.array(values.astype(np.float32))
    return single if dtype == mx.float32 else single.astype(dtype, stream=mx.cpu)


def same_bits(left: mx.array, right: mx.array) -> bool:
    """Whether two arrays have the same dtype, shape and bits (zeros keep their sign)."""
    if left.dtype != right.dtype or left.shape != right.shape:
        return False
    words = mx.uint32 if left.itemsize == 4 else mx.uint16
    left, right = mx.contiguous(left), mx.contiguous(right)
    return bool(mx.array_equal(left.view(words), right.view(words)).item())
