"""A model as the function that catalogs ask: rows in, answers with a confidence out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from ecellm_mlx.catalog.answering import Answered, Ask
from ecellm_mlx.data.rows import Row
from ecellm_mlx.tasks.registry import find as find_task

if TYPE_CHECKING:
    from ecellm_mlx.models.loading import LoadedModel


def asker(base: LoadedModel, batch_size: int, values: str) -> tuple[Ask, Callable[[], float]]:
    """What answers rows, and what tells its speed (tokens a second).

    Args:
        base: the model, with or without an adapter on it.
        batch_size: rows computed at once.
        values: ``source`` takes attribute values from the product's text only.
    """
    from ecellm_mlx.inference.answers import Answerer
    from ecellm_mlx.tasks.values import Values

    answerer = Answerer(base, batch_size=batch_size, values=Values(values))

    def ask(rows: Sequence[Row]) -> Iterator[Answered]:
        for answer in answerer.answer(rows):
            row = rows[answer.index]
            if answer.probability is not None:
                # Of a typical part, so that one threshold serves lists of any length.
                parts = find_task(row.task).kind.parts(row)
                yield replace(answer, probability=answer.probability ** (1 / parts))
            else:
                yield answer

    return ask, lambda: answerer.speed.tokens_per_second
