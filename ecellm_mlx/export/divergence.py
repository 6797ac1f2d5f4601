"""How far one model's answers are from another's, on real rows.

The measure is the mean Kullback-Leibler divergence KL(p ‖ q) in nats over the answer
positions of embedded rows, p being the model that is right by definition. A number
means little alone, so the divergence of the bare base stands beside it: that is how
far the fine-tune moved the model, and what a re-quantization may cost at most.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ecellm_mlx import sample
from ecellm_mlx.data import encoding, rows
from ecellm_mlx.data.prompts import Frame
from ecellm_mlx.device.backend import mx, nn

ROWS = 20
MAX_TOKENS = 512
SEED = 0
# A re-quantization that moves answers by more than this share of what the fine-tune
# did puts the fine-tune at risk; below the floor the difference is rounding.
RISKY_SHARE = 0.1
FLOOR = 1e-3

Probabilities = list[NDArray[np.float32]]


@dataclass(frozen=True)
class Divergence:
    """``kl`` and ``kl_of_fine_tune`` are mean nats per answer token.

    ``kl_of_fine_tune`` is None where there is no fine-tune; ``same_top_token`` is the
    share of positions at which both models would say the same.
    """

    kl: float
    kl_of_fine_tune: float | None
    same_top_token: float
    prompts: int
    positions: int

    @property
    def risky(self) -> bool:
        """Whether the fine-tune may have been lost in part."""
        limit = RISKY_SHARE * (self.kl_of_fine_tune or 0.0)
        return self.kl > max(FLOOR, limit)

    def to_dict(self) -> dict[str, Any]:
        """For ``--json``."""
        return {
            "mean_kl": self.kl,
            "mean_kl_of_fine_tune": self.kl_of_fine_tune,
            "same_top_token": self.same_top_token,
            "prompts": self.prompts,
            "positions": self.positions,
            "risky": self.risky,
        }


def sample_rows(tokenizer: encoding.Tokenizer, frame: Frame) -> list[encoding.Encoded]:
    """Embedded test rows of all tasks, encoded with their answers."""
    chosen = rows.stratified(rows.load(sample.folder() / "test.jsonl"), ROWS, SEED)
    return encoding.encode_rows(chosen, tokenizer, frame, MAX_TOKENS).kept


def log_probabilities(model: nn.Module, encoded: Sequence[encoding.Encoded]) -> Probabilities:
    """Log-probabilities (answer positions, vocab) of each row."""
    result = []
    for row in encoded:
        positions = mx.array(list(row.target_positions))
        logits = model(mx.array([row.tokens]))[0][positions].astype(mx.float32)
        values = logits - mx.logsumexp(logits, axis=-1, keepdims=True)
        result.append(np.array(values))
    return result


def compare(
    right: Probabilities, other: Probabilities, base: Probabilities | None = None
) -> Divergence:
    """The divergence of ``other`` from ``right``, beside that of the bare ``base``."""
    positions = sum(map(len, right))
    same = sum(
        int((p.argmax(-1) == q.argmax(-1)).sum()) for p, q in zip(right, other, strict=True)
    )
    return Divergence(
        _kl(right, other),
        None if base is None else _kl(right, base),
        same / positions,
        len(right),
        positions,
    )


def _kl(right: Probabilities, other: Probabilities) -> float:
    total, positions = 0.0, 0
    for p, q in zip(right, other, strict=True):
        wide = p.astype(np.float64)
        total += float((np.exp(wide) * (wide - q)).sum())
        positions += len(p)
    # Rounding may leave a sum of a few ulps below zero.
    return max(0.0, total / positions)
