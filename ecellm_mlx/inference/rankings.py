"""Rank a row's items by the orders that the model would write.

An answer is a list of letters, best first, such as ``B,A,C``. Three ways to find it:

``FIRST``       the letters by the probability that an answer starts with them. If that
                distribution is read as the weights of a Plackett–Luce model, sorting by
                it gives the likeliest order. No pass beyond the prompt's.
``GREEDY``      the likeliest letter, then the likeliest of the others after it, and so
                on: what decoding under a grammar of all orders gives. One short pass for
                each place but the last.
``EXHAUSTIVE``  the likeliest of all orders, each with its exact probability under that
                grammar. Their number is n!, so rows of more than ``MOST_ITEMS`` items
                are ranked greedily.

Greedy is the default: it conditions on what was ranked already, as the model was
trained to, and its cost grows with n instead of n!.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import permutations

from ecellm_mlx.inference import choices
from ecellm_mlx.inference.engine import Engine, Prefilled

MOST_ITEMS = 4  # 24 orders, 16 passes of one row beyond the prompt


class Ranking(StrEnum):
    """How an order is found."""

    FIRST = "first"
    GREEDY = "greedy"
    EXHAUSTIVE = "exhaustive"


@dataclass(frozen=True)
class Items:
    """What a row ranks, as tokens: each item at the first place, and after another."""

    first: tuple[tuple[int, ...], ...]
    later: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Order:
    """A ranking of items by index, its probability, and each item's to come first."""

    places: list[int]
    probability: float
    first: list[float]


def rank(
    engine: Engine, batch: Prefilled, rows: Sequence[Items], end: int, ranking: Ranking
) -> list[Order]:
    """The order of every row's items.

    Args:
        engine: the engine that read the batch.
        batch: prompts that were read; its cache is left as it is.
        rows: for each row of the batch, its items.
        end: token that ends an answer.
        ranking: how the orders are found.
    """
    first = choices.score(engine, batch, [items.first for items in rows], end)
    if ranking is Ranking.FIRST:
        return [_plackett_luce(weights) for weights in first]
    few = [i for i, items in enumerate(rows) if len(items.first) <= MOST_ITEMS]
    exact = few if ranking is Ranking.EXHAUSTIVE else []
    many = [i for i in range(len(rows)) if i not in set(exact)]
    orders: dict[int, Order] = {}
    if exact:
        part = batch.part(exact)
        ordered = _exhaustive(engine, part, [rows[i] for i in exact], end)
        orders.update(zip(exact, ordered, strict=True))
    if many:
        part = batch.part(many)
        ordered = _greedy(engine, part, [rows[i] for i in many], [first[i] for i in many], end)
        orders.update(zip(many, ordered, strict=True))
    return [orders[i] for i in range(len(rows))]


def _plackett_luce(weights: list[float]) -> Order:
    places = _best_first(weights)
    probability, left = 1.0, sum(weights)
    for place in places[:-1]:
        probability *= weights[place] / left if left > 0 else 0.0
        left -= weights[place]
    return Order(places, probability, weights)


def _exhaustive(
    engine: Engine, batch: Prefilled, rows: Sequence[Items], end: int
) -> list[Order]:
    orders = [list(permutations(range(len(items.first)))) for items in rows]
    written = [
        [_written(items, order) for order in mine]
        for items, mine in zip(rows, orders, strict=True)
    ]
    result = []
    scores = choices.score(engine, batch, written, end)
    for items, mine, values in zip(rows, orders, scores, strict=True):
        best = max(range(len(mine)), key=lambda i: (values[i], -i))
        first = [0.0] * len(items.first)
        for order, value in zip(mine, values, strict=True):
            first[order[0]] += value
        result.append(Order(list(mine[best]), values[best], first))
    return result


def _greedy(
    engine: Engine,
    batch: Prefilled,
    rows: Sequence[Items],
    first: Sequence[list[float]],
    end: int,
) -> list[Order]:
    """``batch`` is used up."""
    chosen: list[list[int]] = [[_best_first(weights)[0]] for weights in first]
    probability = [max(weights) for weights in first]
    cache = batch.cache
    feed = [list(items.first[mine[0]]) for items, mine in zip(rows, chosen, strict=True)]
    while True:
        left = [
            [i for i in range(len(items.first)) if i not in mine]
            for items, mine in zip(rows, chosen, strict=True)
        ]
        open_rows = [r for r, others in enumerate(left) if len(others) > 1]
        if not open_rows:
            break
        # What all that is left begins with, such as the comma, needs no choice.
        shared = [
            choices.shared_start([items.later[i] for i in others])
            for items, others in zip(rows, left, strict=True)
        ]
        steps = [
            [*feed[r], *rows[r].later[left[r][0]][: shared[r]]] if r in set(open_rows) else []
            for r in range(len(rows))
        ]
        logits = engine.extend(cache, steps)
        batch = Prefilled(batch.indices, logits, cache)
        options = [
            [items.later[i][cut:] for i in others]
            for items, others, cut in zip(rows, left, shared, strict=True)
        ]
        scores = choices.score(engine, batch, options, end)
        for r in open_rows:
            best = _best_first(scores[r])[0]
            probability[r] *= scores[r][best]
            feed[r] = list(options[r][best])
            chosen[r].append(left[r][best])
    return [
        Order([*mine, *others], value, weights)
        for mine, others, value, weights in zip(chosen, left, probability, first, strict=True)
    ]


def _written(items: Items, order: Sequence[int]) -> tuple[int, ...]:
    tokens = list(items.first[order[0]])
    for item in order[1:]:
        tokens += items.later[item]
    return tuple(tokens)


def _best_first(values: Sequence[float]) -> list[int]:
    return sorted(range(len(values)), key=lambda i: -values[i])
