"""Cross-entropy at supervised positions, with never more logits than a processor can hold.

The same numbers as ``training.loss``, by the host: one row of logits at a time, and no
copies of them. Where the head is not trained, its logits become their own gradient, block
by block: with p = softmax(z), the gradient of −log p[t] with respect to z is p − 1[t].
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ecellm_mlx.device.backend import mx, tree_flatten
from ecellm_mlx.device.cpu.gradients import Array, differentiable
from ecellm_mlx.device.protocol import Head
from ecellm_mlx.device.traits import HEAD_BYTES


def head_loss(head: Head, hidden: mx.array, targets: mx.array) -> mx.array:
    """Sum of −log softmax(head(hidden))[target]; see ``protocol.HeadLoss``."""
    frozen = not tree_flatten(head.layer.trainable_parameters())
    if frozen and hidden.dtype == mx.float32:
        return _in_blocks(head, hidden, targets)
    return cross_entropy(head(hidden).astype(mx.float32), targets)


def cross_entropy(logits: mx.array, targets: mx.array) -> mx.array:
    """Sum of −log softmax(logits)[target]. Keeps the logits, and no copies of them.

    Args:
        logits: (N, vocab), float32.
        targets: (N,) integers.
    """
    chosen = np.asarray(targets)
    each = np.arange(len(chosen))

    @differentiable
    def total(logits: mx.array) -> mx.array:
        values = np.asarray(logits)
        sums = np.empty(len(values), np.float32)
        for n, row in enumerate(values):
            largest = row.max()
            sums[n] = np.log(np.exp(row - largest).sum()) + largest
        return mx.array((sums - values[each, chosen]).sum())

    def gradients(logits: mx.array, cotangent: mx.array, _output: mx.array) -> mx.array:
        values = np.asarray(logits)
        result = np.empty_like(values)
        for row, out in zip(values, result, strict=True):
            np.exp(row - row.max(), out=out)
            out /= out.sum()
        result[each, chosen] -= 1
        result *= np.asarray(cotangent)
        return mx.array(result)

    total.vjp(gradients)
    return total(logits)


def _in_blocks(head: Head, hidden: mx.array, targets: mx.array) -> mx.array:
    """The same for a head that is not trained.

    Works on ``HEAD_BYTES`` of logits at a time and turns them into the gradient in
    place, so that neither exists for all positions at once.

    Args:
        head: while it trains the gradient is found along with the value.
        hidden: (N, hidden), float32.
        targets: (N,) integers.
    """
    chosen = np.asarray(targets)
    gradient = np.empty(hidden.shape, np.float32)

    def block(part: mx.array, right: NDArray[Any], losses: Array, gradient: Array) -> None:
        # A function, so that these logits are gone before the next ones are computed.
        logits = head(part)
        mx.eval(logits)
        values = np.asarray(logits)
        each = np.arange(len(right))
        values -= values.max(axis=-1, keepdims=True)
        at_target = values[each, right]
        np.exp(values, out=values)
        sums = values.sum(axis=-1, keepdims=True)
        losses[:] = np.log(sums[:, 0]) - at_target
        if head.layer.training:
            values /= sums
            values[each, right] -= 1
            back = mx.vjp(head, [part], [logits])[1][0]
            gradient[:] = np.asarray(back)

    @differentiable
    def total(hidden: mx.array) -> mx.array:
        losses = np.empty(len(chosen), np.float32)
        width = head(hidden[:1]).shape[-1]
        step = max(1, HEAD_BYTES // (4 * width))
        for start in range(0, len(chosen), step):
            here = slice(start, start + step)
            block(hidden[here], chosen[here], losses[here], gradient[here])
        return mx.array(losses.sum())

    def gradients(_hidden: mx.array, cotangent: mx.array, _output: mx.array) -> mx.array:
        return mx.array(gradient) * cotangent

    total.vjp(gradients)
    return total(hidden)
