"""Batched forward passes over prompts that share a prefix.

Deals in token ids only: knows nothing of rows, tasks or text. What all prompts have
in common is read once, what a group has in common once more, and the KV cache of
the prefix is copied to each row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ecellm_mlx.backend import mx, nn
from ecellm_mlx.inference.cache import BatchCache, join, layer_count
from ecellm_mlx.models import body

# A shorter common prefix saves less than its own forward pass costs.
MIN_SHARED_PREFIX = 8
# Finished rows leave a batch when they are this share of it: leaving costs a copy.
DROP_SHARE = 0.5

Logits = NDArray[np.float32]
# Chooses how one row goes on from its logits (vocab,): one token, or several where a
# grammar leaves no choice.
Chooser = Callable[[Logits], Sequence[int]]


@dataclass(frozen=True)
class Prompt:
    """A prompt and the name of the group whose prefix it shares."""

    tokens: tuple[int, ...]
    group: str = ""


@dataclass
class Prefilled:
    """Prompts that were read: ``indices`` are their places in the caller's list."""

    indices: list[int]
    logits: mx.array  # (B, vocab), of the token after the prompt
    cache: BatchCache


@dataclass(frozen=True)
class _Shared:
    """A prefix of ``length`` tokens that was read, as a batch of one."""

    length: int
    cache: BatchCache


class Engine:
    """Runs one model, with or without an adapter on it."""

    def __init__(self, model: nn.Module, *, batch_size: int = 16) -> None:
        self.model = model
        self.batch_size = batch_size
        self._splits = not body.split_problem(model)
        self._layers = layer_count(model)

    def prefill(self, prompts: Sequence[Prompt]) -> Iterator[Prefilled]:
        """Read all prompts in batches, in order of group and length.

        What all prompts share is read once, and what a group shares once more; rows
        of several groups may make up a batch.
        """
        groups: dict[str, list[int]] = {}
        for index, prompt in enumerate(prompts):
            groups.setdefault(prompt.group, []).append(index)
        empty = _Shared(0, BatchCache(self._layers, 1))
        root = self._read(empty, common_prefix([p.tokens for p in prompts]))
        pieces: list[Prefilled] = []
        room = self.batch_size
        for members in groups.values():
            members.sort(key=lambda i: (len(prompts[i].tokens), i))
            shared = root
            if len(members) > 1:
                prefix = common_prefix([prompts[i].tokens for i in members])
                shared = self._read(root, prefix)
            while members:
                indices, members = members[:room], members[room:]
                suffixes = [prompts[i].tokens[shared.length :] for i in indices]
                cache = shared.cache.select([0] * len(indices))
                pieces.append(Prefilled(indices, self.extend(cache, suffixes), cache))
                room -= len(indices)
                if not room:
                    yield _joined(pieces)
                    pieces, room = [], self.batch_size
        if pieces:
            yield _joined(pieces)

    def extend(self, cache: BatchCache, continuations: Sequence[Sequence[int]]) -> mx.array:
        """Logits (B, vocab) after feeding each row its own tokens; the cache grows.

        A row without tokens stays as it is, and its logits mean nothing.
        """
        counts = [len(tokens) for tokens in continuations]
        padded = np.zeros((len(counts), max(counts)), np.int32)
        for row, tokens in enumerate(continuations):
            padded[row, : len(tokens)] = tokens
        cache.begin(counts)
        hidden = self._hidden(mx.array(padded), cache)
        last = hidden[mx.arange(len(counts)), mx.array([max(n - 1, 0) for n in counts])]
        logits = body.logits(self.model, last) if self._splits else last
        mx.eval(logits)
        return logits

    def decode(
        self,
        batch: Prefilled,
        choosers: Sequence[Chooser],
        *,
        max_tokens: int,
        stop_ids: frozenset[int],
    ) -> list[list[int]]:
        """Continue every row of ``batch`` until a stop id or ``max_tokens``.

        Args:
            batch: prompts that were read; its cache is used up.
            choosers: one per row, called with the logits after all its tokens so far.
            max_tokens: most tokens per row.
            stop_ids: tokens that end a row; they are not part of the result.

        Returns:
            The new tokens of each row, in the batch's order.
        """
        answers: list[list[int]] = [[] for _ in batch.indices]
        # Place in the batch → row of the result; None once the row has ended.
        rows: list[int | None] = list(range(len(batch.indices)))
        cache, logits = batch.cache, batch.logits
        while True:
            values = np.array(logits.astype(mx.float32))
            steps: list[list[int]] = [[] for _ in rows]
            for place, row in enumerate(rows):
                if row is None:
                    continue
                tokens = list(choosers[row](values[place]))
                kept = _until_stop(tokens, stop_ids)
                answers[row] += kept[: max_tokens - len(answers[row])]
                if len(kept) < len(tokens) or len(answers[row]) >= max_tokens:
                    rows[place] = None
                else:
                    steps[place] = tokens
            alive = [place for place, row in enumerate(rows) if row is not None]
            if not alive:
                return answers
            if len(alive) <= DROP_SHARE * len(rows):
                cache = cache.select(alive)
                rows, steps = [rows[i] for i in alive], [steps[i] for i in alive]
            logits = self.extend(cache, steps)

    def _read(self, start: _Shared, prefix: tuple[int, ...]) -> _Shared:
        """``start`` continued to the end of ``prefix``, if that is worth a pass."""
        if len(prefix) - start.length < MIN_SHARED_PREFIX:
            return start
        cache = start.cache.select([0])
        tokens = prefix[start.length :]
        cache.begin([len(tokens)])
        self._hidden(mx.array(tokens)[None], cache)
        cache.evaluate()
        return _Shared(len(prefix), cache)

    def _hidden(self, tokens: mx.array, cache: BatchCache) -> mx.array:
        """Hidden states where the model splits, else its logits."""
        if self._splits:
            return body.hidden_states(self.model, tokens, cache.layers)
        return self.model(tokens, cache=cache.layers)


def _joined(pieces: list[Prefilled]) -> Prefilled:
    indices = [index for piece in pieces for index in piece.indices]
    logits = mx.concatenate([piece.logits for piece in pieces])
    return Prefilled(indices, logits, join([piece.cache for piece in pieces]))


def common_prefix(sequences: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    """Longest common prefix that leaves every sequence at least one token."""
    if not sequences:
        return ()
    first, last = min(sequences), max(sequences)
    limit = min(len(sequence) for sequence in sequences) - 1
    length = 0
    while length < limit and first[length] == last[length]:
        length += 1
    return tuple(first[:length])


def _until_stop(tokens: list[int], stop_ids: frozenset[int]) -> list[int]:
    for place, token in enumerate(tokens):
        if token in stop_ids:
            return tokens[:place]
    return tokens
