"""Forward and backward arithmetic that MLX's CPU backend is slow at, done on the host.

What ``ecellm_mlx.device.cpu.kernels`` does for inference, with gradients: exponentials are
NumPy's, matrix products stay with MLX, whose BLAS is fast. In a training step of a
small model attention's softmax and SwiGLU otherwise take as long as all products of
the base. Attention keeps its inputs only and computes its weights again on the way
back, never more than one layer's at a time. ``replaced`` says where they stand.

The host reads arrays, so they are computed while the graph is still being built, and
MLX then keeps everything that led to them. Each function here therefore returns a copy
without a past: what stays in memory are its inputs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ecellm_mlx.device.backend import mx, nn, tree_flatten, tree_unflatten
from ecellm_mlx.device.cpu.softmax import exponentials

# Values that are worked on at once (256 KB of each array), to stay in cache.
BLOCK = 1 << 16
# Rows of scores between which the causal edge moves on.
QUERY_BLOCK = 64
GELU_INNER = 2 * (2 / np.pi) ** 0.5
GELU_CUBE = 0.044715

Array = NDArray[np.float32]


def differentiable(function: Callable[..., mx.array]) -> Any:
    """``mx.custom_function``, whose calls are typed as objects."""
    return mx.custom_function(function)


@differentiable
def swiglu(gate: mx.array, x: mx.array) -> mx.array:
    """silu(gate) · x, of any shape, float32."""
    result = np.empty(gate.shape, np.float32)
    for g, u, out in _blocks(gate, x, result):
        _sigmoid(g, out)
        out *= g
        out *= u
    return mx.array(result)


def _swiglu_vjp(
    primals: tuple[mx.array, mx.array], cotangent: mx.array, _output: mx.array
) -> tuple[mx.array, mx.array]:
    """With s = sigmoid(g): dx = dy · g s, dg = dy · x · s (1 + g (1 − s))."""
    gate, x = primals
    d_gate, d_x = np.empty(gate.shape, np.float32), np.empty(gate.shape, np.float32)
    for g, u, dy, dg, dx in _blocks(gate, x, cotangent, d_gate, d_x):
        s = _sigmoid(g, dx)
        # dg first holds s (1 + g (1 − s)) = s + g s − g s².
        np.multiply(g, s, out=dg)
        silu = dg.copy()
        dg *= s
        np.subtract(silu, dg, out=dg)
        dg += s
        dg *= u
        dg *= dy
        np.multiply(silu, dy, out=dx)
    return mx.array(d_gate), mx.array(d_x)


swiglu.vjp(_swiglu_vjp)


@differentiable
def gelu_approx(x: mx.array) -> mx.array:
    """x · sigmoid(a (x + c x³)), the tanh approximation of GELU; a = 2 √(2/π)."""
    result = np.empty(x.shape, np.float32)
    for v, out in _blocks(x, result):
        _sigmoid(_gelu_inner(v), out)
        out *= v
    return mx.array(result)


def _gelu_vjp(primals: mx.array, cotangent: mx.array, _output: mx.array) -> mx.array:
    """With s the sigmoid: dx = dy · s (1 + x a (1 + 3 c x²) (1 − s))."""
    result = np.empty(primals.shape, np.float32)
    for x, dy, out in _blocks(primals, cotangent, result):
        s = _sigmoid(_gelu_inner(x), np.empty_like(x))
        np.multiply(x, x, out=out)
        out *= np.float32(3 * GELU_CUBE * GELU_INNER)
        out += np.float32(GELU_INNER)
        out *= x
        out *= 1 - s
        out += 1
        out *= s
        out *= dy
    return mx.array(result)


gelu_approx.vjp(_gelu_vjp)


def attention(
    queries: mx.array,
    keys: mx.array,
    values: mx.array,
    scale: float,
    unseen: Array | None = None,
) -> mx.array:
    """Causal attention softmax(scale · Q Kᵀ) V with a gradient.

    Args:
        queries: (B, heads, T, dim), float32.
        keys, values: (B, key heads, T, dim); heads is a multiple of key heads.
        scale: factor on the scores.
        unseen: (T, T), −∞ at every key that a query does not see, where these are more than
            those ahead of it.
    """
    batch, heads, length, dim = queries.shape
    # (B, heads, T, dim) as (B, key heads, heads / key heads · T, dim): heads that share keys
    # lie side by side, and go into one product as rows of the same matrix.
    folded = (batch, keys.shape[1], heads // keys.shape[1] * length, dim)

    @differentiable
    def attend(queries: mx.array, keys: mx.array, values: mx.array) -> mx.array:
        weights, totals = _weights((queries * scale).reshape(folded), keys, unseen)
        return leaf((weights @ values) / totals).reshape(queries.shape)

    def gradients(
        primals: Any, cotangent: mx.array, output: mx.array
    ) -> tuple[mx.array, mx.array, mx.array]:
        queries, keys, values = primals
        q, do, o = (part.reshape(folded) for part in (queries * scale, cotangent, output))
        dq, dk, dv = _attention_gradients(q, keys, values, do, o, unseen)
        return leaf(scale * dq).reshape(queries.shape), leaf(dk), leaf(dv)

    attend.vjp(gradients)

    return attend(queries, keys, values)


def attend(
    queries: mx.array, keys: mx.array, values: mx.array, cache: Any, scale: float, mask: Any
) -> mx.array | None:
    """Causal attention among the tokens of a pass, all or a window; None for any other."""
    length = keys.shape[2]
    if cache is not None or queries.shape[2] != length:
        return None
    if isinstance(mask, str) and mask == "causal":
        return attention(queries, keys, values, scale)
    if isinstance(mask, mx.array) and (mask.dtype, mask.shape) == (mx.bool_, (length, length)):
        seen = np.asarray(mask)
        if not np.triu(seen, 1).any():
            unseen = np.where(seen, np.float32(0), np.float32(-np.inf))
            return attention(queries, keys, values, scale, unseen)
    return None


def _attention_gradients(
    queries: mx.array,
    keys: mx.array,
    values: mx.array,
    cotangent: mx.array,
    output: mx.array,
    unseen: Array | None,
) -> tuple[mx.array, mx.array, mx.array]:
    """The way back through softmax attention, from its inputs and its output alone.

    Forward: S = Q Kᵀ (scaled queries), P = softmax(S) by rows, O = P V. Backward, given dO:

        dV = Pᵀ dO,   dP = dO Vᵀ,   dS = P ∘ (dP − D),   dQ = dS K,   dK = dSᵀ Q

    where D = rowsum(P ∘ dP) comes from the softmax: every weight of a row falls when one
    rises. Since Σⱼ Pᵢⱼ dPᵢⱼ = dOᵢ · Σⱼ Pᵢⱼ Vⱼ, it is rowsum(dO ∘ O), which needs no P. So P
    is not kept by the forward pass but computed again here (Dao et al., FlashAttention,
    arXiv 2205.14135, appendix B.2). With the weights W of ``_weights`` and their row sums l,
    P = W / l: dO is divided in its place, which is narrower.

    Args:
        queries, cotangent, output: Q, dO and O, (B, key heads, rows, dim); the rows of a key
            head are the T queries of each head that shares it, head by head.
        keys, values: (B, key heads, T, dim).
        unseen: see ``attention``.

    Returns:
        dQ, dK and dV, like Q, K and V.
    """
    weights, totals = _weights(queries, keys, unseen)
    scaled = cotangent / totals
    d_values = weights.swapaxes(-1, -2) @ scaled
    d_scores = scaled @ values.swapaxes(-1, -2)
    drop = (scaled * output).sum(axis=-1, keepdims=True)
    mx.eval(d_values, d_scores, drop)
    # In place, which is safe: nothing else holds this fresh array.
    for ds, p, d in _blocks(d_scores, weights, drop):
        ds -= d
        ds *= p
    d_queries = d_scores @ keys
    d_keys = d_scores.swapaxes(-1, -2) @ queries
    return d_queries, d_keys, d_values


def _weights(
    queries: mx.array, keys: mx.array, unseen: Array | None
) -> tuple[mx.array, mx.array]:
    """exp(scores − row maximum), zero at what a query does not see, and its row sums."""
    scores = queries @ keys.swapaxes(-1, -2)
    mx.eval(scores)
    length = keys.shape[2]
    # (B, key heads, heads / key heads · T, T) as (B · heads, T, T): a square for each head.
    view = np.asarray(scores).reshape(-1, length, length)
    totals = np.empty((*view.shape[:2], 1), np.float32)
    step = max(1, BLOCK // (QUERY_BLOCK * length))
    ahead = np.triu(np.full((QUERY_BLOCK, QUERY_BLOCK), -np.inf, np.float32), 1)
    for first in range(0, len(view), step):
        for start in range(0, length, QUERY_BLOCK):
            end = min(start + QUERY_BLOCK, length)
            rows = view[first : first + step, start:end]
            rows[..., end:] = 0
            seen = rows[..., :end]
            if unseen is None:
                seen[..., start:] += ahead[: end - start, : end - start]
            else:
                seen += unseen[start:end, :end]
            totals[first : first + step, start:end] = exponentials(seen)
    return scores, mx.array(totals.reshape(*scores.shape[:-1], 1))


def lora_linear(
    x: mx.array,
    a: mx.array,
    b: mx.array,
    layer: nn.Module,
    scale: float,
    mask: mx.array | None = None,
    share: float = 1.0,
) -> mx.array:
    """y = x Wᵀ + bias + scale · dropout(x) A B, in two products and one that adds to them.

    With u = dropout(x), and W frozen (Hu et al., LoRA, arXiv 2106.09685), given dy:

        dA = scale · uᵀ (dy Bᵀ),   dB = scale · (u A)ᵀ dy,
        dx = dy W + dropout(scale · (dy Bᵀ) Aᵀ)

    Keeps ``x`` and ``mask`` only, and drops out again on the way back.

    Args:
        x: (…, in), float32.
        a, b: (in, r) and (r, out).
        layer: the frozen ``nn.Linear``; no gradient of its weights is computed.
        scale: factor on B.
        mask: the elements that dropout keeps, of the shape of ``x``; None keeps all.
        share: the share that it keeps.
    """
    weight, bias = layer.weight, layer.get("bias")
    wide, narrow = weight.shape

    def dropout(x: mx.array) -> mx.array:
        return x if mask is None else (mask * x) * (1 / share)

    @differentiable
    def product(x: mx.array, a: mx.array, b: mx.array) -> mx.array:
        flat = x.reshape(-1, narrow)
        base = flat @ weight.T if bias is None else mx.addmm(bias, flat, weight.T)
        y = mx.addmm(base, dropout(x).reshape(-1, narrow) @ a, scale * b)
        return leaf(y).reshape(*x.shape[:-1], wide)

    def gradients(primals: Any, cotangent: mx.array, _output: mx.array) -> Any:
        x, a, b = primals
        # (…, out) and (…, in) as rows: N = all dimensions but the last.
        dy, flat = cotangent.reshape(-1, wide), dropout(x).reshape(-1, narrow)
        inner = dy @ (scale * b).T  # (N, r)
        da, db = leaf(flat.T @ inner), leaf((scale * (flat @ a)).T @ dy)
        if mask is None:
            return leaf(mx.addmm(dy @ weight, inner, a.T)).reshape(x.shape), da, db
        back = dropout((inner @ a.T).reshape(x.shape))
        return leaf((dy @ weight).reshape(x.shape) + back), da, db

    product.vjp(gradients)
    return product(x, a, b)


def _recomputed(
    function: Callable[..., mx.array], done: Callable[[], None]
) -> Callable[..., mx.array]:
    """``mx.checkpoint`` of ``function`` on arrays, for functions that use the host.

    Args:
        function: of arrays to one array.
        done: called after ``function`` has run again on the way back.
    """

    def gradients(given: Any, cotangent: mx.array, _output: mx.array) -> Any:
        results = [leaf(g) for g in mx.vjp(function, list(given), [cotangent])[1]]
        done()
        return tuple(results)

    kept = differentiable(lambda *given: leaf(function(*given)))
    kept.vjp(gradients)
    return kept


def recomputed_block(forward: Callable[..., mx.array]) -> Callable[..., mx.array]:
    """A block's call ``forward(block, x, …)`` that keeps x only; see ``Device.recomputed``."""

    def call(block: nn.Module, x: mx.array, *args: Any, **named: Any) -> mx.array:
        parameters = tree_flatten(block.trainable_parameters())
        names = [name for name, _ in parameters]

        def function(x: mx.array, *arrays: mx.array) -> mx.array:
            block.update(tree_unflatten(list(zip(names, arrays, strict=True))))
            return forward(block, x, *args, **named)

        def restore() -> None:
            block.update(tree_unflatten(parameters))

        return _recomputed(function, restore)(x, *(array for _, array in parameters))

    return call


@differentiable
def cut(x: mx.array) -> mx.array:
    """``x`` itself, whose gradient forgets its past on the way back."""
    return x


def _cut_vjp(_primals: mx.array, cotangent: mx.array, _output: mx.array) -> mx.array:
    return leaf(cotangent)


cut.vjp(_cut_vjp)


def cutting(original: Callable[..., mx.array]) -> Callable[..., mx.array]:
    """A block's call that cuts the way back at its input."""

    def call(self: nn.Module, x: mx.array, *args: Any, **named: Any) -> mx.array:
        return original(self, cut(x), *args, **named)

    return call


def sealed(original: Callable[..., mx.array]) -> Callable[..., mx.array]:
    """A layer's call, without trainable parameters, that keeps its input and output only."""

    def call(self: nn.Module, x: mx.array, *args: Any, **named: Any) -> mx.array:
        def function(x: mx.array) -> mx.array:
            return original(self, x, *args, **named)

        sealed = differentiable(lambda x: leaf(function(x)))
        sealed.vjp(lambda x, dy, _: leaf(mx.vjp(function, [x], [dy])[1][0]))
        return sealed(x) if x.dtype == mx.float32 else function(x)

    return call


def is_cheap(name: str, module: nn.Module) -> bool:
    """Norms and rotations: quick to do again, and what they keep is not small."""
    frozen = not tree_flatten(module.trainable_parameters())
    return frozen and name.endswith(("norm", ".rope"))


def leaf(array: mx.array) -> mx.array:
    """The values of ``array`` without the graph that led to them."""
    return mx.array(np.asarray(array))


def _sigmoid(x: Array, out: Array) -> Array:
    with np.errstate(over="ignore"):  # exp(−x) = ∞ gives 0, as it should
        np.negative(x, out=out)
        np.exp(out, out=out)
    out += 1
    return np.divide(np.float32(1), out, out=out)


def _gelu_inner(x: Array) -> Array:
    inner = x * x
    inner *= np.float32(GELU_CUBE * GELU_INNER)
    inner += np.float32(GELU_INNER)
    inner *= x
    return inner


def _blocks(*arrays: mx.array | Array) -> Iterator[list[Array]]:
    """The arrays cut along their rows (all but the last dimension), in step."""
    views = [np.asarray(a).reshape(-1, a.shape[-1]) for a in arrays]
    step = max(1, BLOCK // max(view.shape[1] for view in views))
    for start in range(0, len(views[0]), step):
        yield [view[start : start + step] for view in views]


def lora_or(original: Callable[..., mx.array]) -> Callable[..., mx.array]:
    def choose(self: nn.Module, x: mx.array) -> mx.array:
        # A ``protocol.KeyedMask``; ``isinstance`` takes 30 µs, for each layer and pass.
        keyed = hasattr(self.dropout, "mask")
        plain = type(self.linear) is nn.Linear and (keyed or self.dropout._p_1 == 1)
        dtypes = {x.dtype, self.linear.weight.dtype, self.lora_a.dtype}
        if not plain or dtypes != {mx.float32}:
            return original(self, x)
        share, mask = (self.dropout.share if keyed else 1.0), None
        if share < 1:
            mask = leaf(self.dropout.mask(x.shape))
        return lora_linear(x, self.lora_a, self.lora_b, self.linear, self.scale, mask, share)

    return choose
