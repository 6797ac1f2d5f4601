"""Phi-2's old module names and their native ones.

Microsoft's remote code, which the paper's eCeLLM-S adapters were trained with, has one
fused layer ``mixer.Wqkv`` whose rows are all of q, then k, then v. Native Phi has three
layers. A LoRA on the fused layer splits without loss: the same a, and b's columns in
three parts. The way back is as lossless: if the three share their a, it is theirs, and
otherwise a's stand side by side and b is block-diagonal, at the sum of the ranks.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence

import mlx.core as mx

from converters.adapter import LoraModule
from converters.architectures import QKV
from converters.base import Layer
from converters.errors import ConversionError
from converters.packing import common_scale, same_bits, scaled

HEAD = "lm_head.linear"
_NAMES = (
    (r"transformer\.embd\.wte", "model.embed_tokens"),
    (r"transformer\.h\.(\d+)\.mixer\.out_proj", r"model.layers.\1.self_attn.dense"),
    (r"transformer\.h\.(\d+)\.mlp\.(fc[12])", r"model.layers.\1.mlp.\2"),
    (r"transformer\.h\.(\d+)\.ln", r"model.layers.\1.input_layernorm"),
    (r"lm_head\.ln", "model.final_layernorm"),
    (r"lm_head\.linear", "lm_head"),
)
_BACK = (
    (r"model\.embed_tokens", "transformer.embd.wte"),
    (r"model\.layers\.(\d+)\.self_attn\.dense", r"transformer.h.\1.mixer.out_proj"),
    (r"model\.layers\.(\d+)\.self_attn\.[qkv]_proj", r"transformer.h.\1.mixer.Wqkv"),
    (r"model\.layers\.(\d+)\.mlp\.(fc[12])", r"transformer.h.\1.mlp.\2"),
    (r"lm_head", HEAD),
)


def is_legacy(names: Collection[str]) -> bool:
    """Whether these module paths are of the old layout."""
    return any(native_names(name) for name in names)


def native_names(legacy: str) -> tuple[str, ...]:
    """The native layers that a layer of the old layout stands for: three for ``Wqkv``.

    Empty if the name is none of the old layout.
    """
    if match := re.fullmatch(r"transformer\.h\.(\d+)\.mixer\.Wqkv", legacy):
        return tuple(f"model.layers.{match[1]}.{part}" for part in QKV)
    for pattern, replacement in _NAMES:
        if re.fullmatch(pattern, legacy):
            return (re.sub(pattern, replacement, legacy),)
    return ()


def legacy_name(native: str) -> str:
    """The layer of the old layout that holds a native one.

    Raises:
        ConversionError: there is none.
    """
    for pattern, replacement in _BACK:
        if re.fullmatch(pattern, native):
            return re.sub(pattern, replacement, native)
    raise ConversionError(f"{native} has no place in Phi-2's old layout; use the native one.")


def legacy_layers(native: Mapping[str, Layer]) -> dict[str, Layer]:
    """The layers of the old layout that stand for ``native`` ones."""
    layers: dict[str, Layer] = {}
    for name, layer in native.items():
        legacy = legacy_name(name)
        out = layer.out + (layers[legacy].out if legacy in layers else 0)
        layers[legacy] = Layer(layer.kind, out, layer.width)
    return layers


def split(
    fused: LoraModule, sizes: Sequence[int], ranks: list[int] | None = None
) -> list[LoraModule]:
    """One update for each of q, k and v.

    Args:
        fused: the update of ``Wqkv``.
        sizes: rows of q, k and v.
        ranks: if ``join`` made a block-diagonal b, the ranks of its blocks; 0 for a part
            that had no update and gets none.

    Raises:
        ConversionError: b is not block-diagonal, or the sizes are wrong.
    """
    if sum(sizes) != fused.b.shape[1]:
        raise ConversionError(
            f"Wqkv has {fused.b.shape[1]} rows, and the base's q, k and v have "
            f"{' + '.join(map(str, sizes))}; use the base that the adapter was made for."
        )
    if ranks is not None and (
        not isinstance(ranks, list)
        or len(ranks) != len(sizes)
        or not all(isinstance(n, int) and n >= 0 for n in ranks)
        or sum(ranks) != fused.rank
    ):
        raise ConversionError(f"Wqkv of rank {fused.rank} cannot have blocks of {ranks!r}.")
    parts, row, column = [], 0, 0
    for i, size in enumerate(sizes):
        b = fused.b[:, row : row + size]
        a = fused.a
        m = None if fused.m is None else fused.m[row : row + size]
        row += size
        if ranks is not None:
            block = slice(column, column + ranks[i])
            column += ranks[i]
            outside = mx.concatenate([b[: block.start], b[block.stop :]])
            if mx.any(outside).item():
                raise ConversionError("Wqkv is recorded as block-diagonal and is not.")
            a, b = a[:, block], b[block]
        alpha = fused.alpha if ranks is None else None
        parts.append(
            LoraModule(
                mx.contiguous(a),
                mx.contiguous(b),
                fused.scale,
                alpha,
                None if m is None else mx.contiguous(m),
            )
        )
    return parts


def join(
    parts: Sequence[LoraModule | None], sizes: Sequence[int]
) -> tuple[LoraModule, list[int] | None]:
    """The update of ``Wqkv``, and the ranks of its blocks if b is block-diagonal.

    Args:
        parts: the updates of q, k and v; None for a layer without one.
        sizes: rows of q, k and v.

    Raises:
        ConversionError: the result would not be exact.
    """
    present = [part for part in parts if part is not None]
    if any(part.m is not None for part in present) and None in parts:
        raise ConversionError(
            "DoRA on a part of q, k and v has no equivalent on Wqkv; use --phi-layout native."
        )
    magnitudes = [part.m for part in present if part.m is not None]
    m = mx.concatenate(magnitudes) if magnitudes else None
    first = present[0]
    if len(present) == len(parts) and all(
        part.scale == first.scale and same_bits(part.a, first.a) for part in present
    ):
        b = mx.concatenate([part.b for part in present], axis=1)
        return LoraModule(first.a, b, first.scale, first.alpha, m), None
    scale = common_scale([part.scale for part in present])
    rows = []
    for index, part in enumerate(parts):
        if part is None:
            continue
        b = scaled(part.b, part.scale / scale)
        if not same_bits(scaled(b, scale / part.scale), part.b):
            raise ConversionError(
                f"q, k and v have the scales {', '.join(str(p.scale) for p in present)}, which "
                "Wqkv cannot hold exactly; use --phi-layout native."
            )
        before, after = sum(sizes[:index]), sum(sizes[index + 1 :])
        zeros = [mx.zeros((part.rank, n), b.dtype) for n in (before, after)]
        rows.append(mx.concatenate([zeros[0], b, zeros[1]], axis=1))
    fused = LoraModule(
        mx.concatenate([part.a for part in present], axis=1),
        mx.concatenate(rows),
        scale,
        None,
        m,
    )
    return fused, [0 if part is None else part.rank for part in parts]


def native_weights(
    weights: Mapping[str, mx.array], sizes: Sequence[int]
) -> dict[str, mx.array]:
    """The tensors of a checkpoint under native names; those of the native layout stay.

    Args:
        weights: name → tensor.
        sizes: rows of q, k and v.
    """
    native: dict[str, mx.array] = {}
    for name, array in weights.items():
        module, _, leaf = name.rpartition(".")
        parts = native_names(module)
        if name.endswith("rotary_emb.inv_freq"):
            continue
        if len(parts) < 2:
            native[f"{parts[0]}.{leaf}" if parts else name] = array
            continue
        row = 0
        for part, size in zip(parts, sizes, strict=True):
            native[f"{part}.{leaf}"] = array[row : row + size]
            row += size
    return native
