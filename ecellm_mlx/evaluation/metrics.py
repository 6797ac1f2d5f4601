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

import json
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ecellm_mlx.data.rows import Row
from ecellm_mlx.data.schema import EXTRACTED, is_extraction
from ecellm_mlx.errors import DataError
from ecellm_mlx.tasks.registry import TASKS, Kind, Task, find

Values = dict[str, float | None]

GAINS = {"E": 1.0, "S": 0.1, "C": 0.01, "I": 0.0}
EPSILON = 1e-6  # the published evaluator's, in NDCG and extraction
EPSILON_RATES = 1e-8  # the same, in specificity and negative predictive rate

# Scores (answers, references): precision, recall and F1 of each answer, (n, 3).
TextScorer = Callable[[list[str], list[str]], NDArray[np.float64]]
TEXT_METRICS = ("bertscore_precision", "bertscore_recall", "bertscore_f1", "bleurt")
NO_BERTSCORE = "BERTScore is not computed: it needs a model of its own, which --bertscore names"
NO_BLEURT = "BLEURT is not computed: its PyTorch port does not load with transformers 5"


def parse_answer(task: Task | str, text: str) -> Any:
    """The answer in ``text`` as the published evaluator reads it; None if it is invalid.

    Returns:
        yes/no: ``yes`` or ``no``. Choice: the letter. Ranking: a list with the first
        character of each comma part that starts with a capital letter. Extraction: the
        JSON list, empty for JSON that is no list. Text: the stripped text.
    """
    task = find(task) if isinstance(task, str) else task
    stripped = text.strip()
    if task.kind is Kind.YES_NO:
        return answer if (answer := stripped.lower()) in ("yes", "no") else None
    if task.kind is Kind.CHOICE:
        # A recommendation must be the bare letter; elsewhere the first character decides.
        letter = stripped if task.metric == "recall@1" else stripped[:1]
        return letter if len(letter) == 1 and letter in task.letters else None
    if task.kind is Kind.RANKING:
        letters = [part[0] for part in stripped.split(",") if "A" <= part[:1] <= "Z"]
        return letters or None
    if task.kind is Kind.EXTRACTION:
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            return None
        return value if isinstance(value, list) else []
    return stripped or None


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
    scorer = _SCORERS[task.kind]
    official, strict, invalid, reason = scorer(task, predictions, rows, text_scorer)
    result = {"official": official, "strict": strict, "n": len(rows), "invalid": invalid}
    if None in official.values() or None in strict.values():
        result["not_computed"] = reason or _no_answers(len(rows))
    return result


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


Scored = tuple[Values, Values, int, str]  # official, strict, invalid, why a metric is None


def _score_yes_no(
    task: Task, predictions: Sequence[str], rows: Sequence[Row], text_scorer: TextScorer | None
) -> Scored:
    del text_scorer
    labels = [row.output for row in rows]
    answers = [parse_answer(task, text) for text in predictions]
    wrong = {"yes": "no", "no": "yes"}
    valid = [(label, answer) for label, answer in zip(labels, answers, strict=True) if answer]
    counted = [answer or wrong[label] for label, answer in zip(labels, answers, strict=True)]
    official = _yes_no([label for label, _ in valid], [answer for _, answer in valid])
    return official, _yes_no(labels, counted), len(rows) - len(valid), ""


def _yes_no(labels: Sequence[str], answers: Sequence[str]) -> Values:
    if not labels:
        return dict.fromkeys(("acc", "recall", "precision", "f1", "specificity", "npr"))
    from sklearn import metrics

    options: dict[str, Any] = {"pos_label": "yes", "average": "binary", "zero_division": 0}
    tn, fp, fn, _ = metrics.confusion_matrix(labels, answers, labels=["no", "yes"]).ravel()
    return {
        "acc": float(metrics.accuracy_score(labels, answers)),
        "recall": float(metrics.recall_score(labels, answers, **options)),
        "precision": float(metrics.precision_score(labels, answers, **options)),
        "f1": float(metrics.f1_score(labels, answers, **options)),
        "specificity": float(tn / (tn + fp + EPSILON_RATES)),
        "npr": float(tn / (tn + fn + EPSILON_RATES)),
    }


def _score_choice(
    task: Task, predictions: Sequence[str], rows: Sequence[Row], text_scorer: TextScorer | None
) -> Scored:
    del text_scorer
    labels = [row.output[0] for row in rows]
    answers = [parse_answer(task, text) for text in predictions]
    valid = [(label, answer) for label, answer in zip(labels, answers, strict=True) if answer]
    metric = _hits if task.metric == "recall@1" else _multiclass
    classes = sorted({letter for letter in (*labels, *answers) if letter})
    official = metric([label for label, _ in valid], [answer for _, answer in valid], None)
    strict = metric(labels, [answer or "" for answer in answers], classes)
    return official, strict, len(rows) - len(valid), ""


def _hits(labels: Sequence[str], answers: Sequence[str], classes: Any) -> Values:
    if not labels:
        return {"recall@1": None}
    hits = sum(label == answer for label, answer in zip(labels, answers, strict=True))
    return {"recall@1": hits / len(labels)}


def _multiclass(labels: Sequence[str], answers: Sequence[str], classes: Any) -> Values:
    """Macro averages over ``classes``; None means those that occur, as published."""
    if not labels:
        return dict.fromkeys(("acc", "recall", "precision", "f1"))
    from sklearn import metrics

    options: dict[str, Any] = {"labels": classes, "average": "macro", "zero_division": 0}
    return {
        "acc": float(metrics.accuracy_score(labels, answers)),
        "recall": float(metrics.recall_score(labels, answers, **options)),
        "precision": float(metrics.precision_score(labels, answers, **options)),
        "f1": float(metrics.f1_score(labels, answers, **options)),
    }


def _score_ranking(
    task: Task, predictions: Sequence[str], rows: Sequence[Row], text_scorer: TextScorer | None
) -> Scored:
    del task, text_scorer
    official, strict, invalid = 0.0, 0.0, 0
    unjudged = sum(row.labels is None for row in rows)
    for text, row in zip(predictions, rows, strict=True):
        scores = ranking_scores(text, row)
        official += scores.official
        strict += scores.strict
        invalid += scores.invalid
    if unjudged or not rows:
        reason = (
            f"{unjudged} of {len(rows)} rows have no labels (E, S, C, I); `ecellm data pull "
            "--labels label.json` takes those of the paper"
            if unjudged
            else ""
        )
        return {"NDCG": None}, {"NDCG": None}, invalid, reason
    return {"NDCG": official / len(rows)}, {"NDCG": strict / len(rows)}, invalid, ""


class RankingScores(NamedTuple):
    """NDCG of one ranking, both ways, and how many of its parts are no option."""

    official: float
    strict: float
    invalid: int


def ranking_scores(text: str, row: Row) -> RankingScores:
    """NDCG of one row; without ``labels`` only ``invalid`` has a meaning."""
    judged = row.labels or ["I"] * len(row.output.split(","))
    judgment = {chr(ord("A") + n): label for n, label in enumerate(judged)}
    parts = [part[:1] for part in text.strip().split(",")]
    named = [GAINS[judgment[part]] for part in parts if part in judgment]
    ranked = [
        GAINS[judgment[part]] if part in judgment and part not in parts[:rank] else 0.0
        for rank, part in enumerate(parts)
    ]
    ideal = sorted((GAINS[label] for label in judged), reverse=True)
    return RankingScores(
        _dcg(named) / (_dcg(sorted(named, reverse=True)) + EPSILON),
        _dcg(ranked) / (_dcg(ideal) + EPSILON),
        sum(part not in judgment for part in parts),
    )


def _dcg(gains: Sequence[float]) -> float:
    """Σ (2^gain − 1) / log2(rank + 2), ranks from 0.

    With numpy's logarithm and a plain running sum, as published: the last digit
    depends on both (``sum`` compensates for rounding since Python 3.12).
    """
    total = 0.0
    for rank, gain in enumerate(gains):
        total += float((2**gain - 1) / np.log2(rank + 2))
    return total


def _score_extraction(
    task: Task, predictions: Sequence[str], rows: Sequence[Row], text_scorer: TextScorer | None
) -> Scored:
    del task, text_scorer
    counted = [
        extraction_counts(text, row) for text, row in zip(predictions, rows, strict=True)
    ]
    labelled = sum(len(counts.labels) for counts in counted)
    return (
        extraction_values(
            sum(c.official_hits for c in counted),
            labelled,
            sum(c.official_items for c in counted),
        ),
        extraction_values(
            sum(c.strict_hits for c in counted), labelled, sum(len(c.items) for c in counted)
        ),
        sum(counts.invalid for counts in counted),
        "no row has a label that can be read" if rows and not labelled else "",
    )


@dataclass(frozen=True)
class ExtractionCounts:
    """One extraction row: what was asked for, what was answered, what fits.

    Attributes:
        labels: the expected items.
        items: the answered items, of whatever form.
        official: (item, label) pairs that match, as published: an item that is there
            twice hits twice.
        official_items: answered items that have an attribute.
        strict: (item, label) pairs, each item and each label in one pair at most.
        invalid: whether the answer is no JSON.
    """

    labels: list[dict[str, Any]]
    items: list[Any]
    official: list[tuple[Any, dict[str, Any]]]
    official_items: int
    strict: list[tuple[Any, dict[str, Any]]]
    invalid: bool

    @property
    def official_hits(self) -> int:
        """How many pairs the published evaluator counts."""
        return len(self.official)

    @property
    def strict_hits(self) -> int:
        """How many labels were found."""
        return len(self.strict)


def extraction_counts(text: str, row: Row) -> ExtractionCounts:
    """Match one answer with the labels of its row; loosely in settings with OOD."""
    task = TASKS[row.task]
    answer = parse_answer(task, text)
    items = answer or []
    labels = [label for label in parse_answer(task, row.output) or [] if is_extraction(label)]
    loose = "OOD" in row.setting
    return ExtractionCounts(
        labels=labels,
        items=items,
        official=[(i, label) for label in labels for i in items if _matches(i, label, loose)],
        official_items=sum(isinstance(i, dict) and "attribute" in i for i in items),
        strict=_pairs(items, labels, loose),
        invalid=answer is None,
    )


def extraction_values(hits: int, labelled: int, predicted: int) -> Values:
    """Recall, precision and F1 of counts, with the published epsilons."""
    if not labelled:
        return dict.fromkeys(("recall", "precision", "f1"))
    recall = hits / labelled
    precision = hits / (predicted + EPSILON)
    f1 = 2 * recall * precision / (recall + precision + EPSILON)
    return {"recall": recall, "precision": precision, "f1": f1}


def _matches(item: Any, label: Mapping[str, Any], loose: bool) -> bool:
    """Whether an item is the label; loosely, value and source may contain one another."""
    if not is_extraction(item):
        return False
    if all(item[key] == label[key] for key in EXTRACTED):
        return True
    if not loose or item["attribute"] != label["attribute"]:
        return False
    value, source = item["value"], item["source"]
    if value is None or not isinstance(source, str) or not isinstance(label["source"], str):
        return False
    return _contain(str(value), str(label["value"])) and _contain(source, label["source"])


def _contain(a: str, b: str) -> bool:
    return a in b or b in a


def _pairs(
    items: Sequence[Any], labels: Sequence[dict[str, Any]], loose: bool
) -> list[tuple[Any, dict[str, Any]]]:
    """Labels paired with an item of their own each, exact matches first."""
    free = list(items)
    left = list(labels)
    pairs = []
    for rule in (False, True) if loose else (False,):
        for label in list(left):
            match = next(
                (n for n, item in enumerate(free) if _matches(item, label, rule)), None
            )
            if match is not None:
                pairs.append((free.pop(match), label))
                left.remove(label)
    return pairs


def _score_text(
    task: Task, predictions: Sequence[str], rows: Sequence[Row], text_scorer: TextScorer | None
) -> Scored:
    invalid = sum(parse_answer(task, text) is None for text in predictions)
    values: Values = dict.fromkeys(TEXT_METRICS)
    if not rows:
        return values, dict(values), invalid, ""
    if text_scorer is None:
        return values, dict(values), invalid, f"{NO_BERTSCORE}; {NO_BLEURT}"
    scores = text_scorer(list(predictions), [row.output for row in rows])  # (n, 3)
    values.update(
        zip(TEXT_METRICS[:3], (float(column.mean()) for column in scores.T), strict=True)
    )
    return values, dict(values), invalid, NO_BLEURT


def _no_answers(rows: int) -> str:
    return "none of the answers is valid" if rows else "there are no rows"


_SCORERS: dict[
    Kind, Callable[[Task, Sequence[str], Sequence[Row], TextScorer | None], Scored]
] = {
    Kind.YES_NO: _score_yes_no,
    Kind.CHOICE: _score_choice,
    Kind.RANKING: _score_ranking,
    Kind.EXTRACTION: _score_extraction,
    Kind.TEXT: _score_text,
}
