"""Scores of answers, each computed twice.

``official`` repeats the published evaluator, invalid answers and all: yes/no, choices
and recommendations drop them, extraction and ranking treat them as empty. ``strict``
counts every invalid answer as wrong. Both come with ``n`` (rows) and ``invalid`` (the
evaluator's ``#invalid``: rows, but for ranking the parts between commas that are no
option). Values are unrounded; what could not be computed is None, never 0.

What strict changes:

* yes/no: an invalid answer is the wrong one of the two.
* choice, recommendation: an invalid answer is a miss of its row's class.
* ranking: the ideal is that of all judged products, not of those the answer names; an
  invalid or repeated part keeps its rank and gains nothing.
* extraction: a label is hit once at most, and everything predicted counts.

With no invalid answers the first two are equal to the official ones.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from ecellm_mlx.data.rows import Row
from ecellm_mlx.errors import DataError
from ecellm_mlx.tasks.kind import Predicted
from ecellm_mlx.tasks.registry import TASKS, Task, find
from ecellm_mlx.tasks.tally import Tally, TextScorer

MODES = ("official", "strict")


def score(
    task: Task | str,
    predictions: Sequence[str],
    rows: Sequence[Row],
    *,
    text_scorer: TextScorer | None = None,
) -> dict[str, Any]:
    """Score the answers to rows of one task.

    Args:
        task: the task, or its name.
        predictions: answers as text, one for each row.
        rows: the rows, all of ``task`` and, for the published figures, of one setting.
        text_scorer: BERTScore for the text task; without it, it is not computed.

    Returns:
        ``{"official": {…}, "strict": {…}, "n": rows, "invalid": count}``, and
        ``"not_computed": reason`` where a metric is None.

    Raises:
        ValueError: there are not as many answers as rows.
    """
    task = find(task) if isinstance(task, str) else task
    if len(predictions) != len(rows):
        raise ValueError(f"{len(predictions)} predictions for {len(rows)} rows")
    kind, values = task.kind, {}
    predicted = Predicted(predictions, rows, text_scorer)
    for mode in MODES:
        counted = tally(task, predicted, mode)
        values[mode] = dict.fromkeys(kind.metrics) | (counted.metrics() if counted else {})
    invalid = sum(kind.invalid(text, row) for text, row in predicted.pairs)
    result: dict[str, Any] = {**values, "n": len(rows), "invalid": invalid}
    if any(None in metrics.values() for metrics in values.values()):
        why = kind.not_computed(predicted) or "none of the answers is valid"
        result["not_computed"] = why if rows else "there are no rows"
    return result


def tally(task: Task, predicted: Predicted, mode: str) -> Tally | None:
    """Counts of answers, ``official`` or ``strict``; None if there is nothing to compute."""
    return task.kind.tally(predicted, strict=mode == "strict") if predicted.examples else None


def score_by_task(
    rows: Sequence[Row],
    predictions_by_id: Mapping[str, str],
    *,
    partial: bool = False,
    text_scorer: TextScorer | None = None,
) -> dict[str, dict[str, dict[str, Any]]]:
    """Scores by task and setting, in the order of ``rows``.

    A (task, setting) without any prediction is left out.

    Args:
        rows: the labelled rows.
        predictions_by_id: answers by row id.
        partial: score what is there; otherwise a (task, setting) must be complete.
        text_scorer: as for ``score``.

    Raises:
        DataError: a prediction belongs to no row, or rows lack one and ``partial`` is off.
    """
    known = {row.id for row in rows}
    if strangers := [name for name in predictions_by_id if name not in known]:
        raise DataError(
            f"{len(strangers)} of {len(predictions_by_id)} predictions belong to no row",
            got=f"id {strangers[0]!r}",
            cure="score them against the file that they were made from",
        )
    groups: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for row in rows:
        groups[row.task, row.setting].append(row)
    result: dict[str, dict[str, dict[str, Any]]] = {}
    for (name, setting), members in groups.items():
        answered = [row for row in members if row.id in predictions_by_id]
        if not answered:
            continue
        if len(answered) < len(members) and not partial:
            missing = next(row.id for row in members if row.id not in predictions_by_id)
            raise DataError(
                f"{len(members) - len(answered)} of {len(members)} rows of {name} {setting} "
                "have no prediction",
                got=f"none for id {missing!r}",
                cure="predict the missing rows, or score the rows that were predicted only",
            )
        answers = [predictions_by_id[row.id] for row in answered]
        result.setdefault(name, {})[setting] = score(
            TASKS[name], answers, answered, text_scorer=text_scorer
        )
    return result
