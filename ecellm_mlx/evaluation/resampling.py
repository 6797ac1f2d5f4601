"""How sure a figure is: bootstrap intervals, and whether two sets of answers differ.

Rows are drawn with replacement (Efron's percentile bootstrap). Two sets of answers to
the same rows are compared on the same draws (paired bootstrap), and where an answer is
plainly right or wrong also by McNemar's exact test. All draws follow from a seed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from ecellm_mlx.data.rows import Row
from ecellm_mlx.evaluation.metrics import MODES, tally
from ecellm_mlx.tasks.kind import Predicted
from ecellm_mlx.tasks.registry import Task
from ecellm_mlx.tasks.tally import Floats, Tally, TextScorer

DRAWS = 1000
LEVEL = 0.95
SEED = 0
# Draws times rows held at once: 8 bytes each.
CHUNK = 4_000_000


def intervals(
    task: Task,
    predictions: Sequence[str],
    rows: Sequence[Row],
    *,
    draws: int = DRAWS,
    seed: int = SEED,
    text_scorer: TextScorer | None = None,
) -> dict[str, dict[str, list[float]]]:
    """95% intervals, ``{"official": {metric: [low, high]}, "strict": …}``.

    A metric that cannot be computed, or that many draws leave undefined, has none.
    """
    result: dict[str, dict[str, list[float]]] = {}
    predicted = Predicted(predictions, rows, text_scorer)
    for mode in MODES:
        counted = tally(task, predicted, mode)
        result[mode] = {}
        if counted is None:
            continue
        for name, values in _drawn([counted], len(rows), draws, seed)[0].items():
            if np.isnan(values).mean() < 0.5:
                low, high = _percentiles(values)
                result[mode][name] = [low, high]
    return result


def compare(
    task: Task,
    first: Sequence[str],
    second: Sequence[str],
    rows: Sequence[Row],
    *,
    draws: int = DRAWS,
    seed: int = SEED,
    text_scorer: TextScorer | None = None,
) -> dict[str, Any]:
    """The headline metric of two sets of answers to the same rows.

    Returns:
        ``{"n", "metric", "official": …, "strict": …}``, each with ``a``, ``b``,
        ``difference`` (b − a), ``low`` and ``high`` (its 95% interval) and ``p`` (two-sided,
        that there is no difference), or None where the metric cannot be computed; and
        ``mcnemar`` with ``only_a``, ``only_b`` (rows that only one has right) and ``p``.
    """
    result: dict[str, Any] = {"n": len(rows), "metric": task.metric}
    least = least_p(sum(a != b for a, b in zip(first, second, strict=True)))
    for mode in MODES:
        pair = [
            tally(task, Predicted(answers, rows, text_scorer), mode)
            for answers in (first, second)
        ]
        tallies = [one for one in pair if one is not None]
        result[mode] = (
            _paired(tallies, task.metric, len(rows), draws, seed, least)
            if len(tallies) == 2
            else None
        )
    if task.closed:
        a, b = (correct(task, answers, rows) for answers in (first, second))
        only_a = int(np.sum(a & ~b))
        only_b = int(np.sum(b & ~a))
        result["mcnemar"] = {"only_a": only_a, "only_b": only_b, "p": mcnemar(only_a, only_b)}
    return result


def correct(task: Task, predictions: Sequence[str], rows: Sequence[Row]) -> Any:
    """(n,) whether each closed answer is the expected one; an invalid answer is not."""
    kind = task.kind
    right = [
        kind.parse(text) == kind.expected(row)
        for text, row in zip(predictions, rows, strict=True)
    ]
    return np.array(right, bool)


def mcnemar(only_a: int, only_b: int) -> float:
    """Exact two-sided p that both are as often the only one to be right.

    Under the hypothesis ``only_a`` is binomial with ``only_a + only_b`` trials of ½.
    """
    trials, fewer = only_a + only_b, min(only_a, only_b)
    tail = sum(math.comb(trials, k) for k in range(fewer + 1))
    # Whole numbers divide without overflow, however many trials there are.
    return min(1.0, 2 * tail / 2**trials)


def least_p(differing: int) -> float:
    """Smallest two-sided p that so many differing answers can bear.

    Were there no difference, each of these rows could as well have its two answers the
    other way round: 2^n outcomes, two of which are the most extreme. A bootstrap does not
    see this: one row, drawn again and again, always says the same.
    """
    return min(1.0, 2.0 ** (1 - differing))


def _paired(
    pair: list[Tally], metric: str, rows: int, draws: int, seed: int, least: float
) -> dict[str, float] | None:
    a, b = (float(one.values()[metric]) for one in pair)
    if math.isnan(a) or math.isnan(b):
        return None
    drawn = _drawn(pair, rows, draws, seed)
    differences = drawn[1][metric] - drawn[0][metric]
    differences = differences[~np.isnan(differences)]
    if len(differences) < draws / 2:
        return None
    low, high = _percentiles(differences)
    # Share of draws on the far side of zero, counting the data themselves as one draw.
    below = (1 + np.sum(differences <= 0)) / (1 + len(differences))
    above = (1 + np.sum(differences >= 0)) / (1 + len(differences))
    p = max(least, min(1.0, 2 * float(min(below, above))))
    return {"a": a, "b": b, "difference": b - a, "low": low, "high": high, "p": p}


def _drawn(tallies: Sequence[Tally], rows: int, draws: int, seed: int) -> list[dict[str, Any]]:
    """Metrics (draws,) of each tally, all on the same draws."""
    drawn: list[dict[str, list[Floats]]] = [{} for _ in tallies]
    for weights in _weights(rows, draws, seed):
        for parts, one in zip(drawn, tallies, strict=True):
            for name, values in one.values(weights).items():
                parts.setdefault(name, []).append(values)
    return [{name: np.concatenate(pieces) for name, pieces in parts.items()} for parts in drawn]


def _weights(rows: int, draws: int, seed: int) -> Iterator[Floats]:
    """(≤ draws, rows) how often each row is drawn, in pieces that fit in memory."""
    generator = np.random.default_rng(seed)
    share = np.full(rows, 1 / rows)
    step = max(1, CHUNK // rows)
    for start in range(0, draws, step):
        size = min(step, draws - start)
        yield generator.multinomial(rows, share, size=size).astype(float)


def _percentiles(values: Floats) -> tuple[float, float]:
    tail = 100 * (1 - LEVEL) / 2
    low, high = np.nanpercentile(values, [tail, 100 - tail])
    return float(low), float(high)
