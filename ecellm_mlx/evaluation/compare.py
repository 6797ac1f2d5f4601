"""Compare two sets of answers by task and setting."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from ecellm_mlx.data.rows import Row
from ecellm_mlx.evaluation import resampling
from ecellm_mlx.tasks.registry import TASKS
from ecellm_mlx.tasks.tally import TextScorer


def compare_by_task(
    rows: Sequence[Row],
    first: Mapping[str, str],
    second: Mapping[str, str],
    *,
    text_scorer: TextScorer | None = None,
) -> dict[str, dict[str, dict[str, Any]]]:
    """``resampling.compare`` of every (task, setting) that both answer, in order of rows.

    Rows that only one of the two answers are left out.
    """
    groups: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for row in rows:
        if row.id in first and row.id in second:
            groups[row.task, row.setting].append(row)
    result: dict[str, dict[str, dict[str, Any]]] = {}
    for (name, setting), members in groups.items():
        result.setdefault(name, {})[setting] = resampling.compare(
            TASKS[name],
            [first[row.id] for row in members],
            [second[row.id] for row in members],
            members,
            text_scorer=text_scorer,
        )
    return result
