"""Batched forward passes over prompts that share a prefix.

Deals in token ids only: knows nothing of rows, tasks or text. What all prompts have
in common is read once, what a group has in common once more, and the KV cache of
the prefix is copied to each row.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ecellm_mlx import device
from ecellm_mlx.device.backend import mx, nn, scalar
from ecellm_mlx.device.protocol import Pass, RowCache, UnsuitedError
from ecellm_mlx.errors import ModelError
from ecellm_mlx.models import body

from converters import architectures

# A shorter common prefix saves less than its own forward pass costs.
MIN_SHARED_PREFIX = 8
# Token ids that a model is tried with: in these rows, times one of these factors.
PROBES = (1, 5, 3)
PROBE_ROWS = ((0, 6), (6, 8), (8, 11))
Logits = NDArray[np.float32]


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
    cache: RowCache

    def part(self, places: Sequence[int]) -> Prefilled:
        """The rows at ``places``, which may repeat, with a cache of their own."""
        return Prefilled(
            [self.indices[i] for i in places],
            self.logits[mx.array(list(places))],
            self.cache.select(places),
        )


@dataclass(frozen=True)
class _Prefixes:
    """Prefixes that were read, as rows of ``cache``, by the names of their groups."""

    groups: list[str]
    cache: RowCache


class Engine:
    """Runs one model, with or without an adapter on it.

    Attributes:
        forward: how the device reads rows of different lengths.
        vocab_size: width of the model's logits.

    Raises:
        ModelError: the model keeps another state than keys and values, or computes
            something else when its rows share a batch.
    """

    def __init__(self, model: nn.Module, *, batch_size: int = 16) -> None:
        self.model = model
        self.batch_size = batch_size
        self._splits = not body.split_problem(model)
        self.vocab_size = 0
        computer = device.current()
        problem = None
        # The first way that computes what the model does; the best is tried first.
        for self.forward in computer.forwards(model, layer_count(model)):
            if not (problem := self._problem(computer.traits.rounding)):
                return
        assert problem is not None
        raise problem

    def new_cache(self, rows: int) -> RowCache:
        """The cache of ``rows`` rows that have read nothing yet."""
        return self.forward.cache(rows)

    def prefill(self, prompts: Sequence[Prompt]) -> Iterator[Prefilled]:
        """Read all prompts in batches, in order of group and length.

        What all prompts share is read once, and what a group shares once more; rows
        of several groups may make up a batch.
        """
        groups: dict[str, list[int]] = {}
        for index, prompt in enumerate(prompts):
            groups.setdefault(prompt.group, []).append(index)
        order: list[int] = []
        shared: dict[str, tuple[int, ...]] = {}
        root = _worth_reading(common_prefix([p.tokens for p in prompts]), ())
        for name, members in groups.items():
            order += sorted(members, key=lambda i: (len(prompts[i].tokens), i))
            own = common_prefix([prompts[i].tokens for i in members])
            shared[name] = _worth_reading(own, root) if len(members) > 1 else root
        start = self.new_cache(1)
        if root:
            self._feed(start, [root])
        read = _Prefixes([], start)
        for place in range(0, len(order), self.batch_size):
            indices = order[place : place + self.batch_size]
            names = list(dict.fromkeys(prompts[i].group for i in indices))
            read = self._with_prefixes(read, start, names, shared)
            cache = read.cache.select([read.groups.index(prompts[i].group) for i in indices])
            suffixes = [prompts[i].tokens[len(shared[prompts[i].group]) :] for i in indices]
            yield Prefilled(indices, self.extend(cache, suffixes), cache)

    def extend(
        self,
        cache: RowCache,
        continuations: Sequence[Sequence[int]],
        wanted: Sequence[int] | None = None,
    ) -> mx.array:
        """Logits after feeding each row its own tokens; the cache grows.

        Args:
            cache: the rows that go on.
            continuations: the tokens of each row; a row without any stays as it is.
            wanted: rows whose logits are needed, all by default. A row without tokens
                has logits that mean nothing.

        Returns:
            (wanted, vocab), of the token after each row's last one.
        """
        places = range(len(continuations)) if wanted is None else wanted
        hidden = self._feed(cache, continuations)
        nothing = mx.zeros_like(next(state for state in hidden if state is not None))
        states = [hidden[i] for i in places]
        logits = self._logits(
            mx.concatenate([nothing if state is None else state for state in states])
        )
        mx.eval(logits)
        return logits

    def log_likelihoods(
        self, batch: Prefilled, continuations: Sequence[tuple[int, Sequence[int]]]
    ) -> list[NDArray[np.float32]]:
        """Log-probability of every token of given continuations.

        Args:
            batch: prompts that were read; its cache is left as it is.
            continuations: pairs of a row of ``batch`` and at least one token to follow it.

        Returns:
            For each continuation an array of as many values as it has tokens.
        """
        first = _log_softmax(batch.logits)
        result: list[NDArray[np.float32]] = []
        for start in range(0, len(continuations), self.batch_size):
            part = continuations[start : start + self.batch_size]
            values = [[first[row, tokens[0]]] for row, tokens in part]
            longer = [i for i, (_, tokens) in enumerate(part) if len(tokens) > 1]
            if longer:
                cache = batch.cache.select([part[i][0] for i in longer])
                fed = [part[i][1][:-1] for i in longer]
                hidden = self._feed(cache, fed, every=True)
                for states, i in zip(hidden, longer, strict=True):
                    assert states is not None
                    tokens = part[i][1]
                    rows = _log_softmax(self._logits(states))
                    values[i] += rows[np.arange(len(tokens) - 1), list(tokens[1:])].tolist()
            result += [np.array(v, np.float32) for v in values]
        return result

    def _problem(self, rounding: float) -> ModelError | None:
        """Compare uneven rows of a batch with the plain model; sets ``vocab_size``.

        A model whose attention does not take its mask and positions from the cache
        would be quietly wrong in a batch, so it is tried before it is used. In 16 bits
        the logits after some tokens are little but rounding; after others they are not,
        and a model that computes something else does so after all of them.
        """
        differences = []
        for factor in PROBES:
            rows = [[factor * (n + 1) for n in range(*ends)] for ends in PROBE_ROWS]
            try:
                differences.append(self._difference(rows))
            except (UnsuitedError, TypeError, ValueError, AttributeError, IndexError) as error:
                return ModelError(
                    "this architecture cannot compute rows of different lengths at once",
                    got=" ".join(str(error).split())[:200],
                    cure=f"use a {architectures.supported()} model",
                )
            if differences[-1] <= rounding:
                return None
        return ModelError(
            "this architecture computes something else when rows share a batch",
            got=f"logits that differ by {min(differences):.1e}",
            cure=f"use a {architectures.supported()} model",
        )

    def _difference(self, rows: list[list[int]]) -> float:
        """Largest relative difference of logits between a batch and the plain model."""
        cache = self.new_cache(len(rows))
        self.extend(cache, [row[:-1] for row in rows])
        got = self.extend(cache, [row[-1:] for row in rows]).astype(mx.float32)
        self.vocab_size = int(got.shape[-1])
        differences = []
        for logits, row in zip(got, rows, strict=True):
            expected = self.model(mx.array(row)[None])[0, -1].astype(mx.float32)
            largest = mx.maximum(mx.abs(expected).max(), 1e-6)
            differences.append(scalar(mx.abs(logits - expected).max() / largest))
        # NaN is no agreement, and max would lose it.
        finite = all(map(math.isfinite, differences))
        return max(differences) if finite else math.inf

    def _with_prefixes(
        self,
        read: _Prefixes,
        start: RowCache,
        groups: list[str],
        prefixes: Mapping[str, tuple[int, ...]],
    ) -> _Prefixes:
        """The prefixes of ``groups``, of which ``read`` may have some."""
        known = [name for name in groups if name in read.groups]
        fresh = [name for name in groups if name not in read.groups]
        caches = []
        if known:
            caches.append(read.cache.select([read.groups.index(name) for name in known]))
        if fresh:
            caches.append(start.select([0] * len(fresh)))
        names = known + fresh
        cache = caches[0].joined(caches[1:]) if len(caches) > 1 else caches[0]
        rests = [prefixes[n][length:] for n, length in zip(names, cache.lengths, strict=True)]
        if any(rests):
            self._feed(cache, rests)
        return _Prefixes(names, cache)

    def _feed(
        self,
        cache: RowCache,
        continuations: Sequence[Sequence[int]],
        *,
        every: bool = False,
    ) -> list[mx.array | None]:
        """Feed each row its own tokens.

        Returns:
            What ``_hidden`` gives for each row's last token, (1, hidden), or for
            ``every`` one of its tokens, (T, hidden); None for a row without any.
        """
        read: list[list[mx.array]] = [[] for _ in continuations]
        parts = cache.passes(continuations, self.forward.cores)
        # Only what this thread is about to use may be left to be computed later.
        lazy = len(parts) == 1 == len(parts[0])

        def run(passes: Sequence[Pass]) -> None:
            for each in passes:
                states = self._hidden(mx.array(each.tokens), each.layers).flatten(0, 1)
                kept = {
                    span.row: states[span.start if every else span.end - 1 : span.end]
                    for span in each.spans
                    if every or span.last
                }
                if not lazy:
                    # A copy, which does not keep the rest of the pass in memory.
                    kept = {row: mx.contiguous(part) for row, part in kept.items()}
                    mx.eval(kept)
                for row, part in kept.items():
                    read[row].append(part)

        self.forward.run(parts, run)
        return [mx.concatenate(states) if states else None for states in read]

    def _hidden(self, tokens: mx.array, layers: Sequence[Any]) -> mx.array:
        """Hidden states (B, T, hidden) where the model splits, else its logits."""
        if self._splits:
            return body.hidden_states(self.model, tokens, layers)
        return self.model(tokens, cache=layers)

    def _logits(self, hidden: mx.array) -> mx.array:
        """Logits of what ``_hidden`` gave, whatever that is."""
        return body.logits(self.model, hidden) if self._splits else hidden


def layer_count(model: nn.Module) -> int:
    """Number of layers that need a cache.

    Raises:
        ModelError: the architecture keeps another state than keys and values.
    """
    from mlx_lm.models.cache import (  # noqa: TID251
        KVCache,
        RotatingKVCache,
        make_prompt_cache,
    )

    own: list[Any] = make_prompt_cache(model)
    strange = {type(c).__name__ for c in own if not isinstance(c, KVCache | RotatingKVCache)}
    if strange:
        raise ModelError(
            f"this architecture keeps a {', '.join(sorted(strange))}, which cannot be batched",
            cure=f"use a {architectures.supported()} model",
        )
    return len(own)


def _worth_reading(prefix: tuple[int, ...], before: tuple[int, ...]) -> tuple[int, ...]:
    """``prefix``, if it is so much longer than ``before`` that a pass pays; else ``before``."""
    return prefix if len(prefix) - len(before) >= MIN_SHARED_PREFIX else before


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


def _log_softmax(logits: mx.array) -> NDArray[np.float32]:
    """Over the last axis, on the host, where NumPy adds in pairs.

    Adding one float32 after the other costs the sum over a vocabulary four digits.
    """
    values = np.array(logits.astype(mx.float32))
    values -= values.max(axis=-1, keepdims=True)
    values -= np.log(np.exp(values).sum(axis=-1, keepdims=True))
    return values
