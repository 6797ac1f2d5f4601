"""Answer rows with a model on this machine, in groups that a resumed run repeats.

Rows are put in a fixed order, alike ones together, and cut into groups. A group is
always computed as a whole: what a row is computed with never depends on when a run was
stopped, so the answers and their probabilities are those of an uninterrupted run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from ecellm_mlx.data.rows import Row
from ecellm_mlx.evaluation.journal import Journal, Record

if TYPE_CHECKING:
    from ecellm_mlx.inference.answers import Answer, Answerer, Decoding

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


def answer(
    answerer: Answerer,
    rows: Sequence[Row],
    decodings: Sequence[Decoding],
    journal: Journal,
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
        records: list[Record] = []

        def proceed(records: list[Record] = records) -> bool:
            return between(len(records))

        for found in answerer.answer(group, decodings, between=proceed):
            records.append(record(group[found.index], found))
        if len(records) < len(group) * len(decodings):
            return
        yield records


def record(row: Row, found: Answer) -> Record:
    """An answer as a line of the journal."""
    result: Record = {
        "decoding": str(found.decoding),
        "id": row.id,
        "task": row.task,
        "setting": row.setting,
        "prediction": found.prediction,
    }
    if found.probability is not None:
        result["probability"] = round(found.probability, 6)
    if found.shortened:
        result["shortened"] = found.shortened
    return result
