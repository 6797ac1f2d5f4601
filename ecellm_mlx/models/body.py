"""Split a causal model into its body and its output head.

Most of a step's positions need no logits, and the head is as large as several
blocks. mlx-lm's models compute it for every position; this module runs the two
parts apart and proves that together they are the model.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ecellm_mlx.device.backend import mx, nn, scalar

# Largest relative difference between split and whole forward pass that is rounding.
TOLERANCE = 2e-3


def hidden_states(model: nn.Module, tokens: mx.array, cache: Any = None) -> mx.array:
    """Hidden states (B, T, hidden) after the final norm."""
    return model.model(tokens, cache)


@dataclass(frozen=True)
class Head:
    """The output layer, or the embedding that is ``tied`` to it, as a function."""

    layer: nn.Module
    tied: bool

    def __call__(self, hidden: mx.array) -> mx.array:
        """Logits (…, vocab) of hidden states (…, hidden)."""
        return self.layer.as_linear(hidden) if self.tied else self.layer(hidden)


def head(model: nn.Module) -> Head:
    """What turns hidden states into logits."""
    if "lm_head" in model:
        return Head(model.lm_head, tied=False)
    return Head(model.model.embed_tokens, tied=True)


def logits(model: nn.Module, hidden: mx.array) -> mx.array:
    """Logits (…, vocab) of hidden states."""
    return head(model)(hidden)


def split_problem(model: nn.Module) -> str:
    """Why ``model`` is not its body and head together, or an empty string.

    Some architectures scale or cap their logits after the head; leaving that out
    would be quietly wrong, so both ways are compared on a few tokens.
    """
    tokens = mx.arange(4)[None]
    try:
        whole = model(tokens).astype(mx.float32)
        split = logits(model, hidden_states(model, tokens)).astype(mx.float32)
    except (AttributeError, TypeError, KeyError) as error:
        return str(error)
    largest = mx.maximum(mx.abs(whole).max(), 1e-6)
    difference = scalar(mx.abs(whole - split).max() / largest)
    if difference > TOLERANCE:
        return f"its logits differ by {difference:.1e} when computed in parts"
    return ""
