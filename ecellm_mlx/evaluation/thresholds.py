"""Thresholds of yes/no tasks: chosen on one evaluation, applied to another.

An evaluation of validation rows says from which probability of yes on F1 is best; the
rows that are reported are then answered with it, beside the answers as they were given.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ecellm_mlx.data import rows as rows_module
from ecellm_mlx.data.rows import Row
from ecellm_mlx.errors import DataError
from ecellm_mlx.evaluation import systems
from ecellm_mlx.evaluation.calibration import Threshold, choose_threshold
from ecellm_mlx.evaluation.metrics import score
from ecellm_mlx.tasks.registry import TASKS


def choose(run: Path) -> dict[str, Threshold]:
    """Thresholds by task, from the finished evaluation of validation rows in ``run``.

    Tasks without a yes among their labels have none.

    Raises:
        DataError: the run is not finished, or has no yes/no task with probabilities.
    """
    system = systems.load(run)[0]
    by_task: dict[str, list[Row]] = {}
    for row in rows_module.load(Path(system.metrics["data"])):
        if row.id in system.probabilities and TASKS[row.task].kind.binary:
            by_task.setdefault(row.task, []).append(row)
    chosen = {}
    for task, members in by_task.items():
        labels = [row.output == "yes" for row in members]
        if any(labels):
            yes = probability_of_yes(members, system.answers, system.probabilities)
            chosen[task] = choose_threshold(yes, labels)
    if not chosen:
        raise DataError(
            f"{run} has no probabilities of yes and no to choose a threshold on",
            expected="a finished evaluation of validation rows with --decoding valid",
        )
    return chosen


def apply(
    threshold: Threshold,
    rows: Sequence[Row],
    answers: Mapping[str, str],
    probabilities: Mapping[str, float],
) -> dict[str, Any]:
    """What a threshold makes of the answers to rows of one task.

    Returns:
        The threshold's fields as ``chosen``, and strict F1 as ``f1`` with it and as
        ``f1_given`` of the answers as they were given.
    """
    task = TASKS[rows[0].task]
    moved = [threshold.answer(yes) for yes in probability_of_yes(rows, answers, probabilities)]
    given = [answers[row.id] for row in rows]
    return {
        "chosen": asdict(threshold),
        "f1": score(task, moved, rows)["strict"]["f1"],
        "f1_given": score(task, given, rows)["strict"]["f1"],
    }


def probability_of_yes(
    rows: Sequence[Row], answers: Mapping[str, str], probabilities: Mapping[str, float]
) -> list[float]:
    """Of each row; what is recorded is the probability of the answer that was given."""
    return [
        probabilities[row.id] if answers[row.id] == "yes" else 1 - probabilities[row.id]
        for row in rows
    ]
