"""Batched forward passes over prompts that share a prefix.

Deals in token ids only: knows nothing of rows, tasks or text. What all prompts have
in common is read once, what a group has in common once more, and the KV cache of
the prefix is copied to each row.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ecellm_mlx.backend import mx, nn, scalar
from ecellm_mlx.errors import ModelError
from ecellm_mlx.inference.cache import BatchCache, join, layer_count
from ecellm_mlx.inference.host import HostKernels
from ecellm_mlx.models import body

# A shorter common prefix saves less than its own forward pass costs.
MIN_SHARED_PREFIX = 8
# Largest relative difference of logits that is rounding, in 16-bit arithmetic too.
BATCH_TOLERANCE = 5e-2
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
    cache: BatchCache

    def part(self, places: Sequence[int]) -> Prefilled:
        """The rows at ``places``, which may repeat, with a cache of their own."""
        return Prefilled(
            [self.indices[i] for i in places],
            self.logits[mx.array(list(places))],
            self.cache.select(places),
        )


@dataclass(frozen=True)
class _Shared:
    """A prefix of ``length`` tokens that was read, as a batch of one."""

    length: int
    cache: BatchCache


class Engine:
    """Runs one model, with or without an adapter on it.

    Attributes:
        vocab_size: width of the model's logits.

    Raises:
        ModelError: the model keeps another state than keys and values, or computes
            something else when its rows share a batch.
    """

    def __init__(self, model: nn.Module, *, batch_size: int = 16) -> None:
        self.model = model
        self.batch_size = batch_size
        self._splits = not body.split_problem(model)
        self._layers = layer_count(model)
        self._host = HostKernels(model)
        self.vocab_size = self._probe()

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

    def extend(
        self,
        cache: BatchCache,
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
        counts = [len(tokens) for tokens in continuations]
        places = list(range(len(counts))) if wanted is None else list(wanted)
        hidden = self._feed(cache, continuations)
        last = hidden[mx.array(places), mx.array([max(counts[i] - 1, 0) for i in places])]
        logits = self._logits(last)
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
        found: list[NDArray[np.float32]] = []
        for start in range(0, len(continuations), self.batch_size):
            part = continuations[start : start + self.batch_size]
            values = [[first[row, tokens[0]]] for row, tokens in part]
            longer = [i for i, (_, tokens) in enumerate(part) if len(tokens) > 1]
            if longer:
                cache = batch.cache.select([part[i][0] for i in longer])
                hidden = self._feed(cache, [part[i][1][:-1] for i in longer])
                for place, i in enumerate(longer):
                    tokens = part[i][1]
                    rows = _log_softmax(self._logits(hidden[place, : len(tokens) - 1]))
                    values[i] += rows[np.arange(len(tokens) - 1), list(tokens[1:])].tolist()
            found += [np.array(v, np.float32) for v in values]
        return found

    def _probe(self) -> int:
        """Compare uneven rows of a batch with the plain model; returns the vocabulary.

        A model whose attention does not take its mask and positions from the cache
        would be quietly wrong in a batch, so it is tried before it is used.
        """
        rows = [(1, 2, 3, 4, 5, 6), (7, 8), (9, 10, 11)]
        cache = BatchCache(self._layers, len(rows))
        try:
            self.extend(cache, [row[:-1] for row in rows])
            got = self.extend(cache, [row[-1:] for row in rows]).astype(mx.float32)
        except (TypeError, ValueError, AttributeError, IndexError) as error:
            raise ModelError(
                "this architecture cannot compute rows of different lengths at once",
                got=" ".join(str(error).split())[:200],
                cure="use a Llama, Mistral, Phi or Qwen model",
            ) from error
        for place, row in enumerate(rows):
            expected = self.model(mx.array(row)[None])[0, -1].astype(mx.float32)
            largest = mx.maximum(mx.abs(expected).max(), 1e-6)
            difference = scalar(mx.abs(got[place] - expected).max() / largest)
            if not difference <= BATCH_TOLERANCE:
                raise ModelError(
                    "this architecture computes something else when rows share a batch",
                    got=f"logits that differ by {difference:.1e}",
                    cure="use a Llama, Mistral, Phi or Qwen model",
                )
        return int(got.shape[-1])

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

    def _feed(self, cache: BatchCache, continuations: Sequence[Sequence[int]]) -> mx.array:
        """What ``_hidden`` gives for each row's own tokens, padded on the right."""
        counts = [len(tokens) for tokens in continuations]
        padded = np.zeros((len(counts), max(counts)), np.int32)
        for row, tokens in enumerate(continuations):
            padded[row, : len(tokens)] = tokens
        cache.begin(counts)
        return self._hidden(mx.array(padded), cache)

    def _hidden(self, tokens: mx.array, cache: BatchCache) -> mx.array:
        """Hidden states (B, T, hidden) where the model splits, else its logits."""
        with self._host.active():
            if self._splits:
                return body.hidden_states(self.model, tokens, cache.layers)
            return self.model(tokens, cache=cache.layers)

    def _logits(self, hidden: mx.array) -> mx.array:
        """Logits of what ``_hidden`` gave, whatever that is."""
        return body.logits(self.model, hidden) if self._splits else hidden


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


def _log_softmax(logits: mx.array) -> NDArray[np.float32]:
    """Over the last axis, on the host: NumPy adds in pairs.

    MLX's CPU backend adds one float32 after the other, which costs a vocabulary's sum
    four digits.
    """
    values = np.array(logits.astype(mx.float32))
    values -= values.max(axis=-1, keepdims=True)
    values -= np.log(np.exp(values).sum(axis=-1, keepdims=True))
    return values
