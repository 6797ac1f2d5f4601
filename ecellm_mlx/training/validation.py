"""Validation: the loss on held-out rows, and what it says about going on.

Batches are fixed when a run starts and dropout is off, so no random number is drawn:
validating more or less often changes nothing about training.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from ecellm_mlx.data.batches import Batch
from ecellm_mlx.device.backend import mx, scalar
from ecellm_mlx.distributed.ranks import Ranks
from ecellm_mlx.training.checkpoint import TrainerState


def validation_loss(
    loss: Callable[[Batch], mx.array],
    batches: list[Batch],
    group: Ranks,
    between: Callable[[], None] = lambda: None,
) -> float:
    """Mean −log p over all supervised tokens of ``batches``, without dropout.

    ``loss`` gives the sum over one of them. The ranks share the batches and add up in one
    order, so that all get the same number.
    ``between`` is called before each batch; what it raises ends the validation.
    """
    sums = np.zeros(len(batches), np.float32)
    for index, batch in group.share(batches):
        between()
        sums[index] = scalar(loss(batch))
    every = np.array(group.sum([mx.array(sums)])[0], np.float64)
    return float(every.sum()) / sum(batch.supervised for batch in batches)


def record(state: TrainerState, value: float) -> bool:
    """Note the validation loss of ``state.step``; True if it is the best so far.

    A loss that is not finite is never the best.
    """
    finite = math.isfinite(value)
    state.validated_step = state.step
    state.history.append((state.step, value if finite else None))
    if finite and (state.best_loss is None or value < state.best_loss):
        state.best_loss, state.best_step = value, state.step
        state.validations_without_gain = 0
        return True
    state.validations_without_gain += 1
    return False
