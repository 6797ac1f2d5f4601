"""Learning rates as transformers computes them.

The factor of step k (counted from 0) is k / warmup during the warm-up of
ceil(warmup_ratio · steps) steps, so that the first update runs at rate 0, then
½ (1 + cos(π · progress)) for cosine, 1 − progress for linear, 1 for constant,
with progress = (k − warmup) / (steps − warmup).
"""

from __future__ import annotations

import math


def warmup_steps(total_steps: int, warmup_ratio: float) -> int:
    """Number of warm-up steps."""
    return math.ceil(total_steps * warmup_ratio)


def factor(schedule: str, step: int, total_steps: int, warmup_ratio: float) -> float:
    """The factor on the peak learning rate for the update number ``step`` (from 0)."""
    warmup = warmup_steps(total_steps, warmup_ratio)
    if step < warmup:
        return step / max(1, warmup)
    progress = min(1.0, (step - warmup) / max(1, total_steps - warmup))
    if schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * progress))
    if schedule == "linear":
        return 1 - progress
    return 1.0
