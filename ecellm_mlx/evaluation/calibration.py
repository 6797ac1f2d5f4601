"""Do probabilities mean what they say, and from which one on is an answer yes?

Pure functions on numbers; they know nothing of rows or models. Expected calibration
error as in Guo et al. (ICML 2017, arXiv 1706.04599), section 2: answers are put into
bins of equal width by their confidence, and the distance between a bin's accuracy and
its mean confidence is averaged over all answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ecellm_mlx.errors import DataError

BINS = 10
EVEN = 0.5  # the threshold that takes the likelier answer


@dataclass(frozen=True)
class Bin:
    """Answers whose confidence is in (low, high]: how many, how sure, how often right."""

    low: float
    high: float
    count: int
    confidence: float
    accuracy: float


@dataclass(frozen=True)
class Calibration:
    """Expected and maximum calibration error (0 to 1), and the bins that hold answers."""

    ece: float
    mce: float
    bins: tuple[Bin, ...]


@dataclass(frozen=True)
class Threshold:
    """Answer yes if its probability is at least ``value``.

    ``f1`` is that of yes on the ``n`` rows that it was chosen on, and ``f1_even`` that
    of the threshold one half.
    """

    value: float
    f1: float
    f1_even: float
    n: int

    def answer(self, yes: float) -> str:
        """The answer for a probability of yes."""
        return "yes" if yes >= self.value else "no"


def calibration(
    confidences: Sequence[float], correct: Sequence[bool], bins: int = BINS
) -> Calibration:
    """How far confidence and accuracy are apart.

    Args:
        confidences: probability of each answer that was given, 0 to 1.
        correct: whether it was right.
        bins: number of bins of equal width.

    Raises:
        DataError: no answers, or values that are no probabilities.
    """
    values = _probabilities(confidences, len(correct))
    right = np.asarray(correct, bool)
    edges = np.linspace(0, 1, bins + 1)
    # Right-closed bins, as in the paper; zero belongs to the first.
    places = np.clip(np.searchsorted(edges, values, side="left") - 1, 0, bins - 1)
    filled = []
    for place in range(bins):
        inside = places == place
        if count := int(inside.sum()):
            filled.append(
                Bin(
                    float(edges[place]),
                    float(edges[place + 1]),
                    count,
                    float(values[inside].mean()),
                    float(right[inside].mean()),
                )
            )
    gaps = [abs(b.accuracy - b.confidence) for b in filled]
    ece = sum(gap * b.count for gap, b in zip(gaps, filled, strict=True)) / len(values)
    return Calibration(float(ece), max(gaps), tuple(filled))


def choose_threshold(yes: Sequence[float], labels: Sequence[bool]) -> Threshold:
    """The threshold on the probability of yes with the best F1 of yes.

    Choose it on validation rows, never on those that are reported. Of equally good
    thresholds the one nearest to one half is taken; it lies midway between two
    neighbouring probabilities, so that rounding moves no row across.

    Args:
        yes: probability of yes for each row.
        labels: whether its answer is yes.

    Raises:
        DataError: no rows, no row whose answer is yes, or values that are no probabilities.
    """
    values = _probabilities(yes, len(labels))
    positive = np.asarray(labels, bool)
    if not positive.any():
        raise DataError(
            "a threshold cannot be chosen: no row's answer is yes",
            cure="use validation rows with both answers",
        )
    levels = np.unique(values)
    middles = (levels[1:] + levels[:-1]) / 2
    candidates = [EVEN, float(levels[0]) / 2, *map(float, middles)]
    scores = [_f1(values >= candidate, positive) for candidate in candidates]
    best = max(
        range(len(candidates)), key=lambda i: (scores[i], -abs(candidates[i] - EVEN), -i)
    )
    return Threshold(candidates[best], scores[best], scores[0], len(values))


def _f1(predicted: np.ndarray, positive: np.ndarray) -> float:
    hits = int((predicted & positive).sum())
    return 2 * hits / max(int(predicted.sum()) + int(positive.sum()), 1)


def _probabilities(values: Sequence[float], count: int) -> np.ndarray:
    array = np.asarray(values, float)
    if len(array) == 0:
        raise DataError("there are no probabilities to look at", cure="predict some rows first")
    if len(array) != count:
        raise DataError(
            "probabilities and answers do not belong together",
            got=f"{len(array)} and {count}",
            expected="one of each per row",
        )
    if not ((array >= 0) & (array <= 1 + 1e-6)).all():
        raise DataError("a probability lies outside of 0 to 1", got=str(array.min()))
    return np.clip(array, 0, 1)
