"""Arithmetic that MLX's CPU backend is slow at, done on the host.

That backend computes exponentials on one thread at some 70 million a second, and its
fused attention adds passes of its own around them: in a forward pass of a small model
both take longer than all matrix products. NumPy's vectorised ``exp`` is ten times
faster and reads MLX's memory in place. Matrix products stay with MLX, whose BLAS is
fast. Numbers agree to rounding; gradients are not defined, so this serves inference:
``replaced`` says where.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ecellm_mlx.device.backend import mx
from ecellm_mlx.device.cpu.packed import PackedLayer
from ecellm_mlx.device.cpu.softmax import exponentials
from ecellm_mlx.device.padded import LayerCache

# Attention scores of so many values (1 MB) are worked on at once, to stay in cache.
BLOCK = 1 << 18

Array = NDArray[np.float32]


def silu(x: mx.array) -> mx.array:
    """x · sigmoid(x), of any shape, float32."""
    values = np.asarray(x)
    return mx.array(_times_sigmoid(values, values))


def swiglu(gate: mx.array, x: mx.array) -> mx.array:
    """silu(gate) · x, of any shape, float32."""
    values = np.asarray(gate)
    result = _times_sigmoid(values, values)
    result *= np.asarray(x)
    return mx.array(result)


def gelu_approx(x: mx.array) -> mx.array:
    """The tanh approximation of GELU: x · sigmoid(2 √(2/π) (x + 0.044715 x³))."""
    values = np.asarray(x)
    inner = values * values
    inner *= np.float32(0.044715)
    inner += 1
    inner *= values
    inner *= np.float32(2 * (2 / np.pi) ** 0.5)
    return mx.array(_times_sigmoid(values, inner))


def attention(
    queries: mx.array, keys: mx.array, values: mx.array, scale: float, mask: mx.array | None
) -> mx.array:
    """softmax(scale · Q Kᵀ + mask) V.

    Args:
        queries: (B, heads, T, dim), float32.
        keys, values: (B, key heads, C, dim).
        scale: factor on the scores.
        mask: (B or 1, 1, T, C), boolean (True is seen) or added to the scores.
    """
    batch, heads, length, dim = queries.shape
    key_heads, columns = keys.shape[1], keys.shape[2]
    # Heads that share keys go into one product, as rows of the same matrix.
    folded = (queries * scale).reshape(batch, key_heads, -1, dim)
    scores = folded @ keys.swapaxes(-1, -2)
    mx.eval(scores)
    # In place: nothing else holds this fresh array.
    view = np.asarray(scores).reshape(batch, heads, length, columns)
    bias = None if mask is None else _bias(mask)
    totals = np.empty((batch, heads, length, 1), np.float32)
    step = max(1, BLOCK // (heads * length * columns))
    for start in range(0, batch, step):
        block = view[start : start + step]
        if bias is not None:
            block += bias if len(bias) == 1 else bias[start : start + step]
        totals[start : start + step] = exponentials(block)
    output = (scores @ values).reshape(batch, heads, length, values.shape[-1])
    return output / mx.array(totals)


def attend(
    queries: mx.array, keys: mx.array, values: mx.array, cache: Any, scale: float, mask: Any
) -> mx.array | None:
    """Attention of a row to what it has read; None where another cache keeps that."""
    if isinstance(cache, PackedLayer) and not isinstance(mask, str):
        return cache.attend(queries, keys, values, scale, mask)
    if isinstance(cache, LayerCache) and not isinstance(mask, str):
        return attention(queries, keys, values, scale, mask)
    return None


def _bias(mask: mx.array) -> Array:
    values = np.asarray(mask)
    if values.dtype == np.bool_:
        return np.where(values, np.float32(0), np.float32(-np.inf))
    return values


def _times_sigmoid(x: Array, inner: Array) -> Array:
    """x · sigmoid(inner) in a new array."""
    with np.errstate(over="ignore"):  # exp(-inner) = ∞ gives 0, as it should
        result = np.negative(inner)
        np.exp(result, out=result)
    result += 1
    return np.divide(x, result, out=result)
