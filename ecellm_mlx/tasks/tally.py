"""Metrics as functions of sums over rows: once for a figure, and again for every draw.

Each row contributes a vector of counts; a metric depends on their sum alone. The figure of
all rows and those of rows that are drawn again and again are the same formula, and no
answer is scored twice. Figures equal scikit-learn's to the last digit (tests compare them).
Knows no kinds of answers: those say what is counted, and which formula it is for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
# Sums (…, k) to metrics (…) by name; NaN where one is not defined.
Formula = Callable[[Floats], dict[str, Floats]]
# Scores (answers, references): precision, recall and F1 of each answer, (n, 3).
TextScorer = Callable[[list[str], list[str]], NDArray[np.float64]]

EPSILON = 1e-6  # the published evaluator's, in extraction
EPSILON_RATES = 1e-8  # the same, in specificity and negative predictive rate


@dataclass(frozen=True)
class Tally:
    """``counts`` (n, k) of n rows, and the ``formula`` of their sums."""

    counts: Floats
    formula: Formula

    @staticmethod
    def of(counts: Sequence[Sequence[float]], formula: Formula) -> Tally:
        """A tally of one list of counts a row, of which there is at least one."""
        return Tally(np.array(counts, np.float64), formula)

    def values(self, weights: Floats | None = None) -> dict[str, Floats]:
        """The metrics of all rows, or of rows drawn ``weights`` (…, n) times each."""
        if weights is None:
            # A plain running sum, as published: numpy's own pairs terms, and the last digit
            # depends on that.
            return self.formula(np.add.accumulate(self.counts, axis=0)[-1])
        return self.formula(weights @ self.counts)

    def metrics(self) -> dict[str, float | None]:
        """The metrics of all rows as plain numbers; None where one is not defined."""
        values = {name: float(value) for name, value in self.values().items()}
        return {name: None if np.isnan(value) else value for name, value in values.items()}


def rates(sums: Floats) -> dict[str, Floats]:
    """Of a binary classification: true and false negatives, false and true positives."""
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


def macro_averages(size: int) -> Formula:
    """Over those of ``size`` classes that occur among labels and answers.

    The sums are a confusion matrix (size, size + 1), whose last column is of no class.
    """

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


def means(*names: str) -> Formula:
    """Means; the last count is that of rows."""

    def formula(sums: Floats) -> dict[str, Floats]:
        with np.errstate(invalid="ignore", divide="ignore"):
            return {name: sums[..., n] / sums[..., -1] for n, name in enumerate(names)}

    return formula


def extraction_rates(sums: Floats) -> dict[str, Floats]:
    """Of hits, labels and answered items, with the published epsilons."""
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


def dcg(gains: Sequence[float]) -> float:
    """Σ (2^gain − 1) / log2(rank + 2), ranks from 0.

    With numpy's logarithm and a plain running sum, as published: the last digit
    depends on both (``sum`` compensates for rounding since Python 3.12).
    """
    total = 0.0
    for rank, gain in enumerate(gains):
        total += float((2**gain - 1) / np.log2(rank + 2))
    return total


def _ratio(above: Any, below: Any) -> Floats:
    """``above / below``, and 0 where there is nothing to divide by, as scikit-learn."""
    return np.divide(above, below, out=np.zeros_like(above, float), where=below > 0)
