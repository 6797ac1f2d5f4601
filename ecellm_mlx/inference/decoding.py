"""Decode a changing set of rows, each by its own rule, and tell what every step brought.

Deals in token ids only. A row goes on by what its chooser returns: one token, or
several where a grammar leaves no choice. Rows that are done leave, new ones may be
added while others are under way, and no row's tokens depend on its neighbours.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from ecellm_mlx.device.backend import mx
from ecellm_mlx.device.protocol import RowCache
from ecellm_mlx.inference.engine import Engine, Logits, Prefilled

# Finished rows leave the batch when this share of it is left: leaving costs a copy.
DROP_SHARE = 0.75

# Chooses how one row goes on from its logits (vocab,).
Chooser = Callable[[Logits], Sequence[int]]


def _never(_tokens: list[int]) -> bool:
    return False


@dataclass(frozen=True)
class Rule:
    """How one row is decoded.

    Attributes:
        key: names the row in what comes back.
        choose: called with the logits after all tokens so far.
        stop_ids: tokens that end the row; they are not part of the result.
        max_tokens: most tokens of the result; None if the chooser ends by itself.
        start: tokens that the answer begins with, whatever the model says.
        ended: called with all tokens after each step; True ends the row.
    """

    key: Hashable
    choose: Chooser
    stop_ids: frozenset[int]
    max_tokens: int | None = None
    start: tuple[int, ...] = ()
    ended: Callable[[list[int]], bool] = _never


@dataclass(frozen=True)
class Progress:
    """All ``tokens`` of a row so far; ``done`` if there will be no more."""

    key: Hashable
    tokens: list[int]
    done: bool


@dataclass
class _Row:
    rule: Rule
    logits: Logits | None
    tokens: list[int] = field(default_factory=list)
    # Chosen or forced, but not yet read by the model.
    pending: list[int] = field(default_factory=list)


class Decoder:
    """Rows under way on one engine."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._cache: RowCache | None = None
        # One entry for each row of the cache; None once it is done.
        self._rows: list[_Row | None] = []

    def __len__(self) -> int:
        """Rows that are not done."""
        return sum(row is not None for row in self._rows)

    def add(self, batch: Prefilled, rules: Sequence[Rule]) -> None:
        """Take prompts that were read, one rule each; their cache is used up."""
        values = np.array(batch.logits.astype(mx.float32))
        fresh: list[_Row | None] = []
        for place, rule in enumerate(rules):
            row = _Row(rule, values[place])
            if rule.start:
                row.tokens, row.pending, row.logits = list(rule.start), list(rule.start), None
            fresh.append(row)
        self._drop(0)
        self._cache = self._cache.joined([batch.cache]) if self._cache else batch.cache
        self._rows += fresh

    def run(self, leave: int = 0) -> Iterator[Progress]:
        """Decode until at most ``leave`` rows are under way."""
        while len(self) > leave:
            yield from self._choose()
            self._drop(DROP_SHARE * len(self._rows))
            if self._cache is not None:
                self._read()

    def _choose(self) -> Iterator[Progress]:
        for place, row in enumerate(self._rows):
            if row is None or row.logits is None:
                continue
            rule = row.rule
            tokens = list(rule.choose(row.logits))
            kept = _until_stop(tokens, rule.stop_ids)
            room = None if rule.max_tokens is None else rule.max_tokens - len(row.tokens)
            row.tokens += kept[:room]
            row.pending, row.logits = tokens, None
            done = (
                len(kept) < len(tokens)
                or len(row.tokens) == rule.max_tokens
                or rule.ended(row.tokens)
            )
            if done:
                self._rows[place] = None
            yield Progress(rule.key, list(row.tokens), done)

    def _drop(self, most: float) -> None:
        """Forget rows that are done if at most ``most`` others are left, or none is."""
        alive = [place for place, row in enumerate(self._rows) if row is not None]
        if len(alive) == len(self._rows):
            return
        if not alive:
            self._cache, self._rows = None, []
        elif most == 0 or len(alive) <= most:
            assert self._cache is not None
            self._cache = self._cache.select(alive)
            self._rows = [self._rows[place] for place in alive]

    def _read(self) -> None:
        """One forward pass over a part of what is pending."""
        assert self._cache is not None
        pending = [row.pending if row else [] for row in self._rows]
        counts = [len(tokens) for tokens in pending]
        width = self._engine.forward.width(counts)
        steps = [tokens[:width] for tokens in pending]
        ready = [i for i, tokens in enumerate(pending) if tokens and len(tokens) <= width]
        logits = self._engine.extend(self._cache, steps, ready)
        values = np.array(logits.astype(mx.float32))
        for row in self._rows:
            if row is not None:
                row.pending = row.pending[width:]
        for value, place in zip(values, ready, strict=True):
            ready_row = self._rows[place]
            assert ready_row is not None
            ready_row.logits = value


def _until_stop(tokens: list[int], stop_ids: frozenset[int]) -> list[int]:
    for place, token in enumerate(tokens):
        if token in stop_ids:
            return tokens[:place]
    return tokens
