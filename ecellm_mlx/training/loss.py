"""Cross-entropy at supervised positions only.

A row of ECInstruct supervises a handful of its tokens, while the logits of one
position cost as much as two blocks of a small model. The body runs over the whole
batch (B, T); the output head runs over the N supervised positions only.
"""

from __future__ import annotations

from ecellm_mlx.backend import mx, nn
from ecellm_mlx.data.batches import Batch
from ecellm_mlx.errors import ModelError
from ecellm_mlx.models import body


def check_trainable(model: nn.Module) -> None:
    """Refuse an architecture whose logits are not head(body(tokens)).

    Raises:
        ModelError: with the difference found.
    """
    if problem := body.split_problem(model):
        name = type(model).__module__.rsplit(".", 1)[-1]
        raise ModelError(
            f"the architecture {name} cannot be trained yet: {problem}",
            cure="use a Llama, Mistral, Phi or similar model",
        )


def negative_log_likelihood(model: nn.Module, batch: Batch) -> mx.array:
    """Sum over the batch's supervised tokens of −log p(token). Shape: scalar, float32."""
    hidden = body.hidden_states(model, mx.array(batch.tokens))
    chosen = hidden[
        mx.array(batch.target_rows), mx.array(batch.target_positions)
    ]  # (N, hidden)
    logits = body.logits(model, chosen).astype(mx.float32)  # (N, vocab)
    return nn.losses.cross_entropy(logits, mx.array(batch.target_ids), reduction="sum")
