"""Arithmetic that MLX's CPU backend is slow at, done on the host.

That backend computes exponentials on one thread at some 70 million a second, and its
fused attention adds passes of its own around them: in a forward pass of a small model
both take longer than all matrix products. NumPy's vectorised ``exp`` is ten times
faster and reads MLX's memory in place. Matrix products stay with MLX, whose BLAS is
fast. Numbers agree to rounding; gradients are not defined, so this serves inference.

Models are not changed: while ``HostKernels.active`` lasts, the functions that mlx-lm's
model files call by name are replaced by these. On other devices nothing is.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ecellm_mlx.device.backend import mx, nn
from ecellm_mlx.device.cpu.packed import PackedLayer
from ecellm_mlx.device.cpu.softmax import exponentials
from ecellm_mlx.device.padded import LayerCache
from ecellm_mlx.device.protocol import UnsuitedError

# Attention scores of so many values (1 MB) are worked on at once, to stay in cache.
BLOCK = 1 << 18
MODELS = "mlx_lm.models."

Array = NDArray[np.float32]


class HostKernels:
    """The functions of one model that the host computes instead; see ``active``."""

    def __init__(self, model: nn.Module) -> None:
        self._swaps: list[tuple[ModuleType | type, str, Any]] = []
        names = {type(module).__module__ for module in model.modules()}
        for module in (sys.modules[name] for name in sorted(names) if name.startswith(MODELS)):
            if original := getattr(module, "scaled_dot_product_attention", None):
                swap = _attention_or(original)
                self._swaps.append((module, "scaled_dot_product_attention", swap))
            if original := getattr(module, "swiglu", None):
                self._swaps.append((module, "swiglu", float32_or(swiglu, original)))
        for name, function in (("silu", silu), ("gelu_approx", gelu_approx)):
            self._swaps.append((nn, name, float32_or(function, getattr(nn, name))))

    @contextmanager
    def active(self) -> Iterator[None]:
        """Within the context the model's forward passes use the host's functions."""
        before = [getattr(module, name) for module, name, _ in self._swaps]
        try:
            for module, name, function in self._swaps:
                setattr(module, name, function)
            yield
        finally:
            for (module, name, _), function in zip(self._swaps, before, strict=True):
                setattr(module, name, function)


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


def float32_or(
    function: Callable[..., mx.array], original: Callable[..., mx.array]
) -> Callable[..., mx.array]:
    """``function`` where every argument is float32, else ``original``."""

    def choose(*arrays: mx.array) -> mx.array:
        if all(array.dtype == mx.float32 for array in arrays):
            return function(*arrays)
        return original(*arrays)

    return choose


def _attention_or(original: Callable[..., mx.array]) -> Callable[..., mx.array]:
    def choose(
        queries: mx.array,
        keys: mx.array,
        values: mx.array,
        cache: Any,
        scale: float,
        mask: Any,
        **others: Any,
    ) -> mx.array:
        ours = (
            isinstance(cache, LayerCache | PackedLayer)
            and not isinstance(mask, str)
            and not any(value is not None for value in others.values())
            and {queries.dtype, keys.dtype, values.dtype} == {mx.float32}
        )
        if isinstance(cache, PackedLayer):
            if not ours:
                raise UnsuitedError("its attention is not computed row by row")
            return cache.attend(queries, keys, values, scale, mask)
        if ours:
            return attention(queries, keys, values, scale, mask)
        return original(queries, keys, values, cache=cache, scale=scale, mask=mask, **others)

    return choose
