"""What is looked at between two steps: the loss on held-out rows, and a few answers.

Batches are fixed when a run starts, dropout is off, and answers come from the inference
engine as evaluation would give them. So no random number is drawn and no gradient touched:
a run that looks more or less often ends in the same bits.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np

from ecellm_mlx.data import prompts, rows
from ecellm_mlx.data.batches import Batch
from ecellm_mlx.device.backend import mx, scalar
from ecellm_mlx.distributed.ranks import Ranks
from ecellm_mlx.inference.answers import Answerer
from ecellm_mlx.jobs import events
from ecellm_mlx.models.loading import LoadedModel
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


class Sampler:
    """Answers rows of several tasks, chosen by ``seed``.

    Args:
        base: the model with its adapter.
        candidates: rows to choose from.
        count: how many to answer.
        seed: decides which.
        batch_size: rows computed at once.
    """

    def __init__(
        self,
        base: LoadedModel,
        candidates: list[rows.Row],
        *,
        count: int,
        seed: int,
        batch_size: int,
    ) -> None:
        self._base = base
        self._rows = rows.stratified(candidates, count, seed)
        self._batch_size = batch_size

    def __call__(self, step: int) -> Iterator[events.Sample]:
        """One event per row, in the rows' order."""
        self._base.model.eval()
        answerer = Answerer(self._base, batch_size=self._batch_size)
        answers = {answer.index: answer.prediction for answer in answerer.answer(self._rows)}
        for index, row in enumerate(self._rows):
            yield events.Sample(
                step=step,
                task=row.task,
                prompt=prompts.prompt(row, self._base.frame),
                prediction=answers[index],
                reference=row.output,
            )
