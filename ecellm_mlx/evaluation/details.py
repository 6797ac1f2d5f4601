"""What a headline hides: confusion matrices, single attributes, the worst answers."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from ecellm_mlx.data.rows import Row
from ecellm_mlx.evaluation.calibration import Threshold, calibration
from ecellm_mlx.evaluation.metrics import (
    TextScorer,
    extraction_counts,
    extraction_values,
    parse_answer,
    ranking_scores,
)
from ecellm_mlx.evaluation.resampling import correct, intervals
from ecellm_mlx.evaluation.thresholds import apply
from ecellm_mlx.tasks.registry import TASKS, Kind, Task

INVALID = "invalid"
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
        found: dict[str, Any] = {
            "intervals": intervals(task, answers, members, text_scorer=text_scorer)
        }
        if matrix := confusion(task, answers, members):
            found["confusion"] = matrix
        if task.kind is Kind.EXTRACTION:
            found["attributes"] = attributes(answers, members)
        if task.closed and all(row.id in known for row in members):
            sure = [known[row.id] for row in members]
            right = [bool(one) for one in correct(task, answers, members)]
            found["calibration"] = asdict(calibration(sure, right))
            if thresholds and name in thresholds:
                found["threshold"] = apply(thresholds[name], members, predictions_by_id, known)
        if task.kind is Kind.TEXT and text_scorer is not None:
            scores = text_scorer(answers, [row.output for row in members]).round(6).tolist()
            found["bertscore"] = {
                row.id: values for row, values in zip(members, scores, strict=True)
            }
        found["worst"] = worst(task, answers, members, known, text_scorer=text_scorer)
        result.setdefault(name, {})[setting] = found
    return result


def confusion(
    task: Task, predictions: Sequence[str], rows: Sequence[Row]
) -> dict[str, Any] | None:
    """``{"labels": […], "answers": […], "counts": [[…]]}``; the last answer is invalid.

    None for tasks whose options differ from row to row or that have none.
    """
    if not task.closed or task.metric == "recall@1":
        return None
    answers = [parse_answer(task, text) for text in predictions]
    yes_no = task.kind is Kind.YES_NO
    labels = [row.output if yes_no else row.output[0] for row in rows]
    classes = (
        ["yes", "no"]
        if yes_no
        else sorted({letter for letter in (*labels, *answers) if letter})
    )
    counts = [[0] * (len(classes) + 1) for _ in classes]
    for label, answer in zip(labels, answers, strict=True):
        column = len(classes) if answer is None else classes.index(answer)
        counts[classes.index(label)][column] += 1
    return {"labels": classes, "answers": [*classes, INVALID], "counts": counts}


def attributes(predictions: Sequence[str], rows: Sequence[Row]) -> dict[str, dict[str, Any]]:
    """Extraction metrics of each attribute that a label names, the most frequent first.

    Returns:
        By attribute: ``n`` (labels), ``predicted`` (items), ``official`` and ``strict``.
    """
    labels: dict[str, int] = defaultdict(int)
    items: dict[str, int] = defaultdict(int)
    hits: dict[str, dict[str, int]] = {"official": defaultdict(int), "strict": defaultdict(int)}
    for text, row in zip(predictions, rows, strict=True):
        counts = extraction_counts(text, row)
        for label in counts.labels:
            labels[str(label["attribute"])] += 1
        for item in counts.items:
            if isinstance(item, dict) and "attribute" in item:
                items[str(item["attribute"])] += 1
        for mode, pairs in (("official", counts.official), ("strict", counts.strict)):
            for _, label in pairs:
                hits[mode][str(label["attribute"])] += 1
    return {
        name: {
            "n": n,
            "predicted": items[name],
            "official": extraction_values(hits["official"][name], n, items[name]),
            "strict": extraction_values(hits["strict"][name], n, items[name]),
        }
        for name, n in sorted(labels.items(), key=lambda entry: (-entry[1], entry[0]))
    }


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
    if task.closed:
        right = correct(task, predictions, rows)
        wrong = [n for n in range(len(rows)) if not right[n]]
        invalid = {n for n in wrong if parse_answer(task, predictions[n]) is None}
        wrong.sort(key=lambda n: (n not in invalid, -probabilities.get(rows[n].id, 0.0), n))
        return [rows[n].id for n in wrong[:limit]]
    pairs = list(zip(predictions, rows, strict=True))
    if task.kind is Kind.RANKING:
        quality = [
            ranking_scores(text, row).strict if row.labels else 1.0 for text, row in pairs
        ]
    elif task.kind is Kind.EXTRACTION:
        quality = [_extraction_quality(text, row) for text, row in pairs]
    elif text_scorer is not None:
        quality = list(text_scorer(list(predictions), [row.output for row in rows])[:, 2])
    else:
        quality = [float(bool(text.strip())) for text in predictions]
    order = sorted(range(len(rows)), key=lambda n: (quality[n], n))
    return [rows[n].id for n in order[:limit] if quality[n] < 1 - 1e-4]


def _extraction_quality(text: str, row: Row) -> float:
    """F1 of one row; an unreadable answer is below every readable one."""
    counts = extraction_counts(text, row)
    if counts.invalid:
        return -1.0
    total = len(counts.labels) + len(counts.items)
    return 2 * counts.strict_hits / total if total else 1.0
