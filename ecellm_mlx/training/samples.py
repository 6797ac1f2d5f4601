"""A few answers while training, to look at: the same rows each time.

Answers come from the inference engine, as evaluation would give them. They draw from
no random numbers and touch no gradient, so that a run with samples ends in the same
bits as one without.
"""

from __future__ import annotations

from collections.abc import Iterator

from ecellm_mlx.data import prompts, rows
from ecellm_mlx.inference.answers import Answerer
from ecellm_mlx.jobs import events
from ecellm_mlx.models.loading import LoadedModel


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
