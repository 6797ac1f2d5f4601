"""Fused models: base weight plus update in float32, then stored as asked for.

Equation, for a weight W of shape (out, in), A of shape (in, r) and B of shape (r, out):

    LoRA   W' = W + scale · (A B)ᵀ
    DoRA   W' = m ⊙ V / ‖V‖, V = W + scale · (A B)ᵀ, the norm taken over each row

(LoRA: Hu et al., arXiv 2106.09685; DoRA: Liu et al., arXiv 2402.09353). An embedding's
A is (rows, r) and its B (r, columns), so that nothing is transposed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import mlx.core as mx

from converters import architectures
from converters.errors import ConversionError
from converters.shards import Part, Tensor

# What a configuration says of MLX's quantization, or of code and places that stay behind.
LEFT_BEHIND = (
    "quantization",
    "quantization_config",
    "auto_map",
    "_name_or_path",
    "_commit_hash",
)


@dataclass(frozen=True)
class Weight:
    """One tensor of a model in floats, still to be computed.

    Attributes:
        name: such as ``model.layers.0.mlp.up_proj.weight``.
        compute: gives the values, in float32 where they were fused or de-quantized.
        adapted: whether an adapter changed it.
        quantizable: whether MLX can store it quantized.
        stored: the quantized tensors it came from; None if it was not quantized, or is
            no longer what they say.
    """

    name: str
    shape: tuple[int, ...]
    compute: Callable[[], mx.array]
    adapted: bool = False
    quantizable: bool = False
    stored: Stored | None = None

    @property
    def module(self) -> str:
        """Path of the layer."""
        return self.name.rpartition(".")[0]


@dataclass(frozen=True)
class Stored:
    """MLX's quantized form of a weight: packed integers, scales and, if affine, biases."""

    arrays: dict[str, mx.array]
    bits: int
    group_size: int
    mode: str

    @property
    def settings(self) -> dict[str, Any]:
        """The layer's entry under ``quantization`` in ``config.json``."""
        return {"group_size": self.group_size, "bits": self.bits, "mode": self.mode}


def fused(
    weight: mx.array,
    a: mx.array,
    b: mx.array,
    scale: float,
    magnitude: mx.array | None = None,
    *,
    embedding: bool = False,
) -> mx.array:
    """The weight with its update, in float32 (see the module for shapes)."""
    a, b = a.astype(mx.float32), b.astype(mx.float32)
    update = a @ b if embedding else b.T @ a.T
    result = weight.astype(mx.float32) + scale * update
    if magnitude is not None:
        norm = mx.linalg.norm(result, axis=1, keepdims=True)
        result = (magnitude.astype(mx.float32)[:, None] / norm) * result
    return result


def plain(weight: Weight, dtype: mx.Dtype) -> Part:
    """Store a weight as floats of ``dtype``."""

    def compute() -> dict[str, mx.array]:
        return {weight.name: _cast(weight.name, weight.compute(), dtype)}

    return Part({weight.name: Tensor(weight.shape, dtype)}, compute)


def quantized(weight: Weight, bits: int, group_size: int, dtype: mx.Dtype) -> Part:
    """Store a weight of shape (out, in) as MLX's affine integers, scales and biases.

    ``group_size`` must divide the width; scales and biases are floats of ``dtype``.
    """
    rows, columns = weight.shape
    packed = Tensor((rows, columns * bits // 32), mx.uint32)
    groups = Tensor((rows, columns // group_size), dtype)

    def compute() -> dict[str, mx.array]:
        values = mx.quantize(
            weight.compute().astype(mx.float32), group_size=group_size, bits=bits
        )
        return {
            weight.name: values[0],
            f"{weight.module}.scales": _cast(weight.name, values[1], dtype),
            f"{weight.module}.biases": _cast(weight.name, values[2], dtype),
        }

    names = (weight.name, f"{weight.module}.scales", f"{weight.module}.biases")
    return Part(dict(zip(names, (packed, groups, groups), strict=True)), compute)


def as_stored(weight: Weight) -> Part:
    """Store an untouched quantized weight bit for bit as it was."""
    assert weight.stored is not None
    arrays = {f"{weight.module}.{key}": value for key, value in weight.stored.arrays.items()}
    tensors = {name: Tensor(tuple(a.shape), a.dtype) for name, a in arrays.items()}
    return Part(tensors, lambda: dict(arrays))


def clean_config(config: dict[str, Any], *, dtype: str, tied: bool | None) -> dict[str, Any]:
    """The configuration of a float model that needs none of MLX and no code of others.

    Args:
        config: of the base.
        dtype: name of the float type that the weights are stored in.
        tied: whether the output layer is the embedding; None keeps what is there.
    """
    result = {key: value for key, value in config.items() if key not in LEFT_BEHIND}
    result.pop("dtype", None)
    result["torch_dtype"] = dtype
    family = architectures.get(config.get("model_type"))
    if family and family.hf_class:
        # A base with code of its own names a class there that the result does not need.
        result["architectures"] = [family.hf_class]
    if tied is not None:
        # Said in so many words: libraries have different defaults.
        result["tie_word_embeddings"] = tied
    return result


def _cast(name: str, values: mx.array, dtype: mx.Dtype) -> mx.array:
    result = values.astype(dtype)
    if not mx.isfinite(result).all().item():
        raise ConversionError(
            f"{name} has values that {str(dtype).rpartition('.')[2]} cannot hold; choose "
            "--dtype bfloat16 or float32."
        )
    return result
