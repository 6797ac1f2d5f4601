"""Answer rows with a model on this machine, in groups that a resumed run repeats.

Rows are put in a fixed order, alike ones together, and cut into groups. A group is
always computed as a whole: what a row is computed with never depends on when a run was
stopped, so the answers and their probabilities are those of an uninterrupted run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from ecellm_mlx.data.rows import Row
from ecellm_mlx.evaluation.journal import AnswerLog, Record, record

if TYPE_CHECKING:
    from ecellm_mlx.inference.answers import Answerer
    from ecellm_mlx.inference.protocol import Decoding

# A group is so many batches: what a kill costs at most. Each reads its instruction anew.
GROUP_BATCHES = 4


def groups(rows: Sequence[Row], batch_size: int) -> list[list[Row]]:
    """All rows: those of one instruction together, short ones first."""
    ordered = sorted(
        rows,
        key=lambda row: (
            row.task,
            row.instruction,
            len(row.input) + len(row.options or ""),
            row.id,
        ),
    )
    size = GROUP_BATCHES * batch_size
    return [ordered[start : start + size] for start in range(0, len(ordered), size)]


def records(
    answerer: Answerer,
    rows: Sequence[Row],
    decodings: Sequence[Decoding],
    journal: AnswerLog,
    between: Callable[[int], bool],
) -> Iterator[list[Record]]:
    """Records of whole groups, leaving out groups that the journal has.

    Args:
        answerer: the model.
        rows: all rows of the evaluation, whether they are answered or not.
        decodings: one record per row and decoding.
        journal: the answers so far.
        between: called between batches with the answers of the group so far; False stops,
            and the group that is being computed is dropped.
    """
    for group in groups(rows, answerer.engine.batch_size):
        if all((decoding, row.id) in journal for row in group for decoding in decodings):
            continue
        answered: list[Record] = []

        def proceed(answered: list[Record] = answered) -> bool:
            return between(len(answered))

        for answer in answerer.answer(group, decodings, between=proceed):
            answered.append(
                record(
                    group[answer.index],
                    answer.decoding,
                    answer.prediction,
                    probability=answer.probability,
                    shortened=answer.shortened,
                )
            )
        if len(answered) < len(group) * len(decodings):
            return
        yield answered
