"""Metrics as functions of sums over rows, so that rows can be drawn again and again.

Each row contributes a vector of counts; a metric depends on their sum alone. Resampling
rows is then a product of draws and counts, without scoring an answer twice. ``values``
of all rows equals what ``metrics.score`` says (a test compares them).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ecellm_mlx.data.rows import Row
from ecellm_mlx.evaluation.metrics import (
    EPSILON,
    EPSILON_RATES,
    TEXT_METRICS,
    TextScorer,
    extraction_counts,
    parse_answer,
    ranking_scores,
)
from ecellm_mlx.tasks.registry import Kind, Task

Floats = NDArray[np.float64]
# Sums (…, k) to metrics (…) by name; NaN where one is not defined.
Formula = Callable[[Floats], dict[str, Floats]]


@dataclass(frozen=True)
class Tally:
    """``counts`` (n, k) of n rows, and the ``formula`` of their sums."""

    counts: Floats
    formula: Formula

    def values(self, weights: Floats | None = None) -> dict[str, Floats]:
        """The metrics of all rows, or of rows drawn ``weights`` (…, n) times each."""
        if weights is None:
            return self.formula(self.counts.sum(axis=0))
        return self.formula(weights @ self.counts)


def tally(
    task: Task,
    predictions: Sequence[str],
    rows: Sequence[Row],
    *,
    strict: bool,
    text_scorer: TextScorer | None = None,
) -> Tally | None:
    """The tally of answers to rows of one task; None if its metric cannot be computed.

    Args:
        task: the task of all ``rows``.
        predictions: answers as text, one for each row.
        rows: the rows.
        strict: count as strict, otherwise as published.
        text_scorer: BERTScore, for the text task.
    """
    if not rows:
        return None
    pairs = list(zip(predictions, rows, strict=True))
    if task.kind is Kind.YES_NO:
        return Tally(_yes_no_counts(task, pairs, strict), _yes_no)
    if task.kind is Kind.CHOICE:
        if task.metric == "recall@1":
            return Tally(_hit_counts(task, pairs, strict), _mean("recall@1"))
        counts, classes = _class_counts(task, pairs, strict)
        return Tally(counts, _multiclass(classes))
    if task.kind is Kind.RANKING:
        if any(row.labels is None for row in rows):
            return None
        scores = [ranking_scores(text, row) for text, row in pairs]
        chosen = [[s.strict if strict else s.official, 1.0] for s in scores]
        return Tally(np.array(chosen), _mean("NDCG"))
    if task.kind is Kind.EXTRACTION:
        counted = [extraction_counts(text, row) for text, row in pairs]
        return Tally(
            np.array(
                [
                    [c.strict_hits, len(c.labels), len(c.items)]
                    if strict
                    else [c.official_hits, len(c.labels), c.official_items]
                    for c in counted
                ],
                float,
            ),
            _extraction,
        )
    if text_scorer is None:
        return None
    found = text_scorer(list(predictions), [row.output for row in rows])
    return Tally(np.column_stack([found, np.ones(len(rows))]), _mean(*TEXT_METRICS[:3]))


Pairs = Sequence[tuple[str, Row]]


def _yes_no_counts(task: Task, pairs: Pairs, strict: bool) -> Floats:
    """(n, 4): true negative, false positive, false negative, true positive."""
    counts = np.zeros((len(pairs), 4))
    for n, (text, row) in enumerate(pairs):
        label, answer = row.output == "yes", parse_answer(task, text)
        if answer is None and not strict:
            continue
        said = (not label) if answer is None else answer == "yes"
        counts[n, 2 * label + said] = 1
    return counts


def _yes_no(sums: Floats) -> dict[str, Floats]:
    tn, fp, fn, tp = np.moveaxis(sums, -1, 0)
    total = sums.sum(axis=-1)
    some = np.where(total > 0, 1.0, np.nan)
    return {
        "acc": _ratio(tp + tn, total) * some,
        "recall": _ratio(tp, tp + fn) * some,
        "precision": _ratio(tp, tp + fp) * some,
        "f1": _ratio(2 * tp, 2 * tp + fp + fn) * some,
        "specificity": tn / (tn + fp + EPSILON_RATES) * some,
        "npr": tn / (tn + fn + EPSILON_RATES) * some,
    }


def _hit_counts(task: Task, pairs: Pairs, strict: bool) -> Floats:
    """(n, 2): hit, and whether the row counts."""
    answers = [parse_answer(task, text) for text, _ in pairs]
    return np.array(
        [
            [answer == row.output[0], strict or answer is not None]
            for answer, (_, row) in zip(answers, pairs, strict=True)
        ],
        float,
    )


def _class_counts(task: Task, pairs: Pairs, strict: bool) -> tuple[Floats, int]:
    """(n, C · (C + 1)): a confusion matrix a row; the last answer is an invalid one."""
    labels = [row.output[0] for _, row in pairs]
    answers = [parse_answer(task, text) for text, _ in pairs]
    classes = sorted({letter for letter in (*labels, *answers) if letter})
    size = len(classes)
    counts = np.zeros((len(pairs), size, size + 1))
    for n, (label, answer) in enumerate(zip(labels, answers, strict=True)):
        if answer is not None or strict:
            column = size if answer is None else classes.index(answer)
            counts[n, classes.index(label), column] = 1
    return counts.reshape(len(pairs), -1), size


def _multiclass(size: int) -> Formula:
    """Macro averages over the classes that occur among drawn labels and answers."""

    def formula(sums: Floats) -> dict[str, Floats]:
        matrix = sums.reshape(*sums.shape[:-1], size, size + 1)
        hits = np.diagonal(matrix[..., :size], axis1=-2, axis2=-1)  # (…, C)
        true, said = matrix.sum(axis=-1), matrix[..., :size].sum(axis=-2)
        present = (true + said) > 0
        number, total = present.sum(axis=-1), matrix.sum(axis=(-2, -1))

        def macro(values: Floats) -> Floats:
            with np.errstate(invalid="ignore"):
                return np.asarray(np.where(present, values, 0.0).sum(axis=-1) / number)

        return {
            "acc": _ratio(hits.sum(axis=-1), total) * np.where(total > 0, 1.0, np.nan),
            "recall": macro(_ratio(hits, true)),
            "precision": macro(_ratio(hits, said)),
            "f1": macro(_ratio(2 * hits, true + said)),
        }

    return formula


def _mean(*names: str) -> Formula:
    """Means; the last count is that of rows."""

    def formula(sums: Floats) -> dict[str, Floats]:
        with np.errstate(invalid="ignore", divide="ignore"):
            return {name: sums[..., n] / sums[..., -1] for n, name in enumerate(names)}

    return formula


def _extraction(sums: Floats) -> dict[str, Floats]:
    hits, labelled, predicted = np.moveaxis(sums, -1, 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        recall = hits / labelled
    precision = hits / (predicted + EPSILON)
    f1 = 2 * recall * precision / (recall + precision + EPSILON)
    return {
        "recall": recall,
        "precision": np.where(np.isnan(recall), np.nan, precision),
        "f1": f1,
    }


def _ratio(above: Floats, below: Floats) -> Floats:
    """``above / below``, and 0 where there is nothing to divide by, as scikit-learn."""
    return np.divide(above, below, out=np.zeros_like(above, float), where=below > 0)
