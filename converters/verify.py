"""Prove on the user's own files that two adapters are the same update.

For every layer the update ΔW is computed from each file by its own format's rule, in
float64: mlx-lm's from the one rank and scale of its file, as mlx-lm itself would, and
PEFT's from alpha, rank and patterns. Nothing that the converters recorded is used.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import mlx.core as mx
import numpy as np

from converters import phi_layout
from converters.adapter import LoraModule
from converters.errors import ConversionError
from converters.mlx_adapter import read_mlx, read_stored
from converters.packing import same_bits
from converters.peft_files import PeftAdapter, read_peft

ROWS = 4096
# Half a unit in the last place, relative.
ROUNDING = {mx.float32: 2**-24, mx.float16: 2**-11, mx.bfloat16: 2**-8}


@dataclass(frozen=True)
class Verification:
    """How two adapters compare.

    Attributes:
        modules: layers compared, by mlx-lm's count.
        max_abs_error: over all entries of all ΔW and magnitudes.
        max_abs_update: the largest entry of any ΔW, to judge the error by.
        tolerance: the error relative to that entry which rounding of b in its own type
            explains.
        bit_identical: whether every number and every scale is the same, each module's
            own rank and scale restored.
    """

    modules: int
    max_abs_error: float
    max_abs_update: float
    tolerance: float
    bit_identical: bool

    @property
    def equal(self) -> bool:
        """Whether the two are the same update but for rounding."""
        return self.max_abs_error <= self.tolerance * self.max_abs_update


def compare(mlx_folder: Path, peft_folder: Path) -> Verification:
    """Compare an MLX adapter with a PEFT adapter, layer by layer.

    Raises:
        ConversionError: they adapt different layers, in different shapes, or are damaged.
    """
    ours, theirs = read_stored(mlx_folder), _in_mlx_names(read_peft(peft_folder))
    if different := sorted(ours.keys() ^ theirs.keys()):
        raise ConversionError(
            f"{mlx_folder} and {peft_folder} adapt different modules: "
            f"{', '.join(different[:10])}{' …' if len(different) > 10 else ''}."
        )
    error = largest = 0.0
    for name, left in ours.items():
        right = theirs[name]
        shapes = [(m.a.shape[0], m.b.shape[1]) for m in (left, right)]
        if shapes[0] != shapes[1]:
            raise ConversionError(
                f"{name}: ΔW is {shapes[0]} in {mlx_folder} and {shapes[1]} in {peft_folder}."
            )
        if (left.m is None) != (right.m is None):
            raise ConversionError(f"{name} has a magnitude in one adapter only.")
        for x, y in zip(_update(left), _update(right), strict=True):
            error = max(error, float(np.abs(x - y).max()))
            largest = max(largest, float(np.abs(x).max()))
        if left.m is not None and right.m is not None:
            error = max(error, float(np.abs(_wide(left.m) - _wide(right.m)).max()))
    restored = read_mlx(mlx_folder).modules
    identical = all(
        module.scale == theirs[name].scale
        and same_bits(module.a, theirs[name].a)
        and same_bits(module.b, theirs[name].b)
        and _same_magnitude(module.m, theirs[name].m)
        for name, module in restored.items()
    )
    coarsest = max(ROUNDING[module.b.dtype] for module in ours.values())
    return Verification(len(ours), error, largest, 8 * coarsest, identical)


def _in_mlx_names(adapter: PeftAdapter) -> dict[str, LoraModule]:
    """PEFT's modules by the names of mlx-lm's layers.

    Both ends of a tied model are one layer there; which layers those are shows in the
    tensors: an output layer whose update is the embedding's, transposed.
    """
    modules: dict[str, LoraModule] = {}
    for name, module in adapter.modules.items():
        natives = phi_layout.native_names(name) or (name,)
        if len(natives) == 1:
            modules[natives[0]] = module
            continue
        third = module.b.shape[1] // len(natives)
        for native, part in zip(
            natives, phi_layout.split(module, [third] * len(natives)), strict=True
        ):
            if part.m is not None or mx.any(part.b).item():
                modules[native] = part
    embedding, head = modules.get("model.embed_tokens"), modules.get("lm_head")
    if embedding is not None and head is not None:
        same = mx.array_equal(head.a, embedding.b.T) and mx.array_equal(head.b, embedding.a.T)
        if same and head.scale == embedding.scale:
            del modules["lm_head"]
    return modules


def _update(module: LoraModule) -> Iterator[np.ndarray]:
    """scale · a·b in float64, ``ROWS`` rows at a time."""
    a, b = _wide(module.a), _wide(module.b)
    for start in range(0, len(a), ROWS):
        yield module.scale * (a[start : start + ROWS] @ b)


def _same_magnitude(left: mx.array | None, right: mx.array | None) -> bool:
    if left is None or right is None:
        return left is right
    return same_bits(left, right)


def _wide(array: mx.array) -> np.ndarray:
    return np.array(array.astype(mx.float32)).astype(np.float64)
