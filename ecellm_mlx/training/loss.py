"""Cross-entropy at supervised positions only.

A row of ECInstruct supervises a handful of its tokens, while the logits of one
position cost as much as two blocks of a small model. The body runs over the whole
batch (B, T); the output head runs over the N supervised positions only.
"""

from __future__ import annotations

from ecellm_mlx.device.backend import mx, nn
from ecellm_mlx.device.protocol import Batch, Head, HeadLoss
from ecellm_mlx.errors import ModelError
from ecellm_mlx.models import body

from converters import architectures

# About the square root of a vocabulary: both sums are short.
BLOCK = 256


def check_trainable(model: nn.Module) -> None:
    """Refuse an architecture whose logits are not head(body(tokens)).

    Raises:
        ModelError: with the difference found.
    """
    if problem := body.split_problem(model):
        name = type(model).__module__.rsplit(".", 1)[-1]
        raise ModelError(
            f"the architecture {name} cannot be trained yet: {problem}",
            cure=f"use a {architectures.supported()} model",
        )


def head_loss(head: Head, hidden: mx.array, targets: mx.array) -> mx.array:
    """Cross-entropy of what the output head makes of (N, hidden) states, summed."""
    return cross_entropy(head(hidden).astype(mx.float32), targets)


def negative_log_likelihood(
    model: nn.Module, batch: Batch, of_head: HeadLoss = head_loss
) -> mx.array:
    """Sum over the batch's targets of −log p(token). Shape: scalar, float32.

    A device may have a head loss of its own, ``of_head``.
    """
    hidden = body.hidden_states(model, mx.array(batch.tokens))  # (B, T, hidden)
    rows, positions = mx.array(batch.target_rows), mx.array(batch.target_positions)
    return of_head(body.head(model), hidden[rows, positions], mx.array(batch.target_ids))


def cross_entropy(logits: mx.array, targets: mx.array) -> mx.array:
    """Sum of −log softmax(logits)[target] over (N, vocab) logits and (N,) targets."""
    chosen = mx.take_along_axis(logits, targets[:, None], axis=-1)[:, 0]
    return (log_sum_exp(logits) - chosen).sum()


def log_sum_exp(logits: mx.array) -> mx.array:
    """log Σ exp over the last axis, (N, vocab) → (N,), and exact to rounding.

    MLX's CPU backend adds one value after the other, which costs float32 four digits
    over a vocabulary: losses are off by 1e-4 and gradients by 2e-4. Sums of blocks, and
    then of their sums, keep them. The maximum is taken out of the gradient, where the
    rounding of all other elements would gather in it.
    """
    largest = mx.stop_gradient(logits.max(axis=-1, keepdims=True))
    powers = mx.exp(logits - largest)
    whole = powers.shape[-1] // BLOCK * BLOCK
    total = powers[:, whole:].sum(axis=-1)
    if whole:
        total = total + powers[:, :whole].reshape(len(powers), -1, BLOCK).sum(-1).sum(-1)
    return mx.log(total) + largest[:, 0]
