"""What a headline hides: confusion matrices, single attributes, the worst answers."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from ecellm_mlx.data.rows import Row
from ecellm_mlx.evaluation.calibration import Threshold, calibration
from ecellm_mlx.evaluation.resampling import correct, intervals
from ecellm_mlx.evaluation.thresholds import apply
from ecellm_mlx.tasks.kind import Predicted
from ecellm_mlx.tasks.registry import TASKS, Task
from ecellm_mlx.tasks.tally import TextScorer

WORST = 5


def details(
    rows: Sequence[Row],
    predictions_by_id: Mapping[str, str],
    *,
    probabilities: Mapping[str, float] | None = None,
    thresholds: Mapping[str, Threshold] | None = None,
    text_scorer: TextScorer | None = None,
) -> dict[str, dict[str, dict[str, Any]]]:
    """All that is known beside the scores, by task and setting.

    Args:
        rows: the labelled rows.
        predictions_by_id: answers by row id.
        probabilities: of the answers that have one.
        thresholds: of yes/no tasks, chosen on other rows.
        text_scorer: BERTScore, for the text task.

    Returns:
        For each (task, setting) with answers: ``intervals``; ``confusion`` for yes/no and
        classes; ``attributes`` for extraction; ``calibration`` where every closed answer
        has a probability; ``threshold`` where there is one; ``bertscore`` of each row,
        precision, recall and F1, where it was computed; ``worst``, the ids of the worst
        answers.
    """
    known = probabilities or {}
    groups: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for row in rows:
        if row.id in predictions_by_id:
            groups[row.task, row.setting].append(row)
    result: dict[str, dict[str, dict[str, Any]]] = {}
    for (name, setting), members in groups.items():
        task, answers = TASKS[name], [predictions_by_id[row.id] for row in members]
        breakdowns: dict[str, Any] = {
            "intervals": intervals(task, answers, members, text_scorer=text_scorer)
        }
        breakdowns |= task.kind.details(Predicted(answers, members, text_scorer))
        if task.closed and all(row.id in known for row in members):
            sure = [known[row.id] for row in members]
            right = [bool(one) for one in correct(task, answers, members)]
            breakdowns["calibration"] = asdict(calibration(sure, right))
            if thresholds and name in thresholds:
                breakdowns["threshold"] = apply(
                    thresholds[name], members, predictions_by_id, known
                )
        breakdowns["worst"] = worst(task, answers, members, known, text_scorer=text_scorer)
        result.setdefault(name, {})[setting] = breakdowns
    return result


def worst(
    task: Task,
    predictions: Sequence[str],
    rows: Sequence[Row],
    probabilities: Mapping[str, float],
    *,
    text_scorer: TextScorer | None = None,
    limit: int = WORST,
) -> list[str]:
    """Ids of the worst answers: the surest of the wrong ones, or the lowest scores.

    An invalid answer comes first; among equals the order of the rows decides.
    """
    quality = task.kind.qualities(Predicted(predictions, rows, text_scorer))
    # How sure an answer was tells which of the wrong ones is worst; a score says it itself.
    sure = [probabilities.get(row.id, 0.0) if task.closed else 0.0 for row in rows]
    order = sorted(range(len(rows)), key=lambda n: (quality[n], -sure[n], n))
    return [rows[n].id for n in order[:limit] if quality[n] < 1 - 1e-4]
