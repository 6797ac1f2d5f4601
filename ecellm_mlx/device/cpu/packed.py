"""KV cache of MLX's CPU backend: rows are read without padding, each on one core.

All tokens of a pass stand in one line, whichever rows they belong to, as a batch of
sequences of one token. What a model computes token by token does not see the
difference; attention, which does, is computed here, row by row. So no token of padding
is ever computed, rows may be divided among the cores, and a pass can be as short as
keeps its arrays in the processor's cache.

Keys and values are written in place, through NumPy's view of MLX's memory: MLX's own
update copies a whole cache for every token.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ecellm_mlx.device.backend import mx
from ecellm_mlx.device.cpu.softmax import exponentials
from ecellm_mlx.device.padded import GROWTH, UNSEEN
from ecellm_mlx.device.protocol import Pass, Span
from ecellm_mlx.device.traits import CPU

# Tokens of a pass, at most. Longer ones push each other's arrays out of the cache.
PASS_TOKENS = 512
# Queries of a row that are scored at once: those before them need not see their keys.
QUERY_BLOCK = 128
# Where no row reads more tokens than this, rows are scored together, padded.
GRID_TOKENS = 8
# Tokens of a part, at least: reading the weights once more costs as much as so many.
LEAST_TOKENS = CPU.pass_overhead_tokens
# How much longer than the mean the longest part may be, to be worth a division.
MOST_UNEVEN = 1.3

Floats = NDArray[np.float32]
Ints = NDArray[np.intp]


@dataclass(frozen=True)
class _Buffer:
    """One layer's keys and values (B, heads, capacity, dim), and views to write to."""

    keys: mx.array
    values: mx.array

    @cached_property
    def views(self) -> tuple[Floats, Floats]:
        return np.asarray(self.keys), np.asarray(self.values)

    @classmethod
    def empty(cls, rows: int, capacity: int, like: tuple[Any, Any]) -> _Buffer:
        """Zeros, as masked columns must be finite; heads and dim are those of ``like``."""
        shapes = [(rows, array.shape[1], capacity, array.shape[3]) for array in like]
        keys, values = (mx.zeros(shape) for shape in shapes)
        mx.eval(keys, values)
        return cls(keys, values)

    def put(
        self, first: int, rows: Sequence[int], source: _Buffer, lengths: Sequence[int]
    ) -> None:
        """Fill rows from ``first`` on with the first columns of rows of another buffer."""
        for mine, theirs in zip(self.views, source.views, strict=True):
            for place, (row, length) in enumerate(zip(rows, lengths, strict=True), first):
                mine[place, :, :length] = theirs[row, :, :length]


class PackedCache:
    """Rows side by side, each in the columns from 0 on.

    Args:
        layer_count: layers that keep keys and values.
        rows: B.
        pass_tokens: tokens of a pass, at most.
    """

    def __init__(self, layer_count: int, rows: int, pass_tokens: int = PASS_TOKENS) -> None:
        self.lengths: NDArray[np.int32] = np.zeros(rows, np.int32)
        self._pass_tokens = pass_tokens
        self._capacity = 0
        # Made by the first pass that comes to a layer, which may be on any thread.
        self._buffers: list[_Buffer | None] = [None] * layer_count
        self._lock = threading.Lock()
        # Whose rows these are, until they go on by themselves.
        self._source: tuple[PackedCache, list[int]] | None = None

    def passes(self, continuations: Sequence[Sequence[int]], cores: int) -> list[list[Pass]]:
        """Rows divided among the cores, and each part cut into passes."""
        counts = [len(tokens) for tokens in continuations]
        self._own(int((self.lengths + np.array(counts, np.int32)).max()))
        result = []
        for rows in divided(counts, cores):
            done = dict.fromkeys(rows, 0)
            passes = []
            for cut in _cut([(row, counts[row]) for row in rows], self._pass_tokens):
                tokens: list[int] = []
                spans, starts = [], []
                for row, count in cut:
                    begin, end = done[row], done[row] + count
                    spans.append(Span(row, len(tokens), count, last=end == counts[row]))
                    starts.append(int(self.lengths[row]) + begin)
                    tokens += continuations[row][begin:end]
                    done[row] = end
                extent = _Extent(spans, starts)
                layers = [PackedLayer(self, n, extent) for n in range(len(self._buffers))]
                passes.append(Pass(np.array(tokens, np.int32)[:, None], layers, spans))
            result.append(passes)
        self.lengths = self.lengths + np.array(counts, np.int32)
        return result

    def select(self, rows: Sequence[int]) -> PackedCache:
        """A cache of these rows, copied when they go on."""
        result = PackedCache(len(self._buffers), len(rows), self._pass_tokens)
        result.lengths = self.lengths[list(rows)]
        source, places = self._source or (self, range(len(self.lengths)))
        result._source = source, [places[row] for row in rows]
        return result

    def joined(self, others: Sequence[PackedCache]) -> PackedCache:
        """One below the other, copied."""
        caches = [self, *others]
        result = PackedCache(
            len(self._buffers), sum(len(c.lengths) for c in caches), self._pass_tokens
        )
        result.lengths = np.concatenate([cache.lengths for cache in caches])
        result._fill(caches, int(result.lengths.max()) + GROWTH)
        return result

    def buffer(self, layer: int, keys: mx.array, values: mx.array) -> _Buffer:
        """The layer's buffer, made if need be to hold arrays (…, heads, …, dim) like these."""
        with self._lock:
            buffer = self._buffers[layer]
            if buffer is None:
                buffer = _Buffer.empty(len(self.lengths), self._capacity, (keys, values))
                self._buffers[layer] = buffer
            return buffer

    def _own(self, columns: int) -> None:
        """Have columns of its own, so many at least."""
        if self._source is None and columns <= self._capacity:
            return
        self._fill([self], columns + GROWTH)
        self._source = None

    def _fill(self, caches: Sequence[PackedCache], capacity: int) -> None:
        """Take over the columns of all rows of ``caches``, one below the other."""
        sources = [
            cache._source or (cache, list(range(len(cache.lengths)))) for cache in caches
        ]
        buffers: list[_Buffer | None] = []
        for layer in range(len(self._buffers)):
            olds = [source._buffers[layer] for source, _ in sources]
            like = next((old for old in olds if old is not None), None)
            if like is None:
                buffers.append(None)
                continue
            new = _Buffer.empty(len(self.lengths), capacity, (like.keys, like.values))
            first = 0
            for old, (_, rows), cache in zip(olds, sources, caches, strict=True):
                if old is not None:
                    new.put(first, rows, old, cache.lengths.tolist())
                first += len(rows)
            buffers.append(new)
        self._buffers, self._capacity = buffers, capacity


@dataclass(frozen=True)
class _Extent:
    """Where the tokens of one pass stand: ``starts`` are its spans' first columns."""

    spans: list[Span]
    starts: list[int]

    @cached_property
    def rows(self) -> Ints:
        """(N,), the row of each token."""
        return np.repeat([s.row for s in self.spans], [s.count for s in self.spans])

    @cached_property
    def steps(self) -> Ints:
        """(N,), the number of each token in its span."""
        return np.concatenate([np.arange(span.count) for span in self.spans])

    @cached_property
    def columns(self) -> Ints:
        """(N,), the column of each token in its row."""
        return self.steps + np.repeat(self.starts, [s.count for s in self.spans])

    @cached_property
    def offsets(self) -> mx.array:
        """(N,), positions for rotary embeddings: the columns."""
        return mx.array(self.columns.astype(np.int32))

    @cached_property
    def grid(self) -> bool:
        """Whether rows are scored together."""
        return len(self.spans) > 1 and max(s.count for s in self.spans) <= GRID_TOKENS

    @cached_property
    def blocks(self) -> list[tuple[int, int, int, int]]:
        """Row, first and last + 1 token in the pass, and column of the first token."""
        return [
            (
                span.row,
                span.start + begin,
                span.start + min(begin + QUERY_BLOCK, span.count),
                start + begin,
            )
            for span, start in zip(self.spans, self.starts, strict=True)
            for begin in range(0, span.count, QUERY_BLOCK)
        ]


@dataclass(frozen=True)
class _Window:
    """Stands for a mask: how many columns a token sees, itself included; None is all."""

    size: int | None


class PackedLayer:
    """One layer in one pass, as mlx-lm's models use a cache."""

    def __init__(self, cache: PackedCache, layer: int, extent: _Extent) -> None:
        self._cache = cache
        self._layer = layer
        self._extent = extent

    @property
    def offset(self) -> mx.array:
        """Position of each token (N,), for rotary embeddings."""
        return self._extent.offsets

    def make_mask(
        self, _length: int, return_array: bool = False, window_size: int | None = None
    ) -> Any:
        """What ``attend`` needs to know of a mask."""
        del return_array
        return _Window(window_size)

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        """The new ones alone: ``attend`` has the others."""
        return keys, values

    def attend(
        self, queries: mx.array, keys: mx.array, values: mx.array, scale: float, mask: Any
    ) -> mx.array:
        """softmax(scale · Q Kᵀ) V of each row, over what it has read and the new tokens.

        Args:
            queries: (N, heads, 1, dim), float32.
            keys, values: (N, key heads, 1, dim), of the new tokens.
            scale: factor on the scores.
            mask: what ``make_mask`` returned, or None.

        Returns:
            (N, heads, 1, dim).
        """
        window = mask.size if isinstance(mask, _Window) else None
        queries = queries * scale
        buffer = self._cache.buffer(self._layer, keys, values)
        mx.eval(queries, keys, values)
        rows, columns = self._extent.rows, self._extent.columns
        for view, new in zip(buffer.views, (keys, values), strict=True):
            view[rows, :, columns] = np.asarray(new)[:, :, 0]
        if self._extent.grid:
            return self._together(queries, buffer, window)
        return self._row_by_row(queries, buffer, window)

    def _row_by_row(self, queries: mx.array, buffer: _Buffer, window: int | None) -> mx.array:
        heads, key_heads = queries.shape[1], buffer.keys.shape[1]
        # Heads that share keys go into one product, as rows of the same matrix.
        by_head = queries[:, :, 0].swapaxes(0, 1)
        scores = []
        for row, begin, end, start in self._extent.blocks:
            folded = by_head[:, begin:end].reshape(key_heads, -1, queries.shape[3])
            seen = buffer.keys[row, :, : start + end - begin]
            scores.append(folded @ seen.swapaxes(-1, -2))
        mx.eval(scores)
        totals, outputs = [], []
        for (row, begin, end, start), score in zip(self._extent.blocks, scores, strict=True):
            count = end - begin
            columns = start + count
            # In place: nothing else holds this fresh array.
            view = np.asarray(score).reshape(heads, count, columns)
            if window is not None and columns > window:
                view += _bias(np.arange(start, columns), columns, window)
            elif count > 1:
                view[..., start:] += _TRIANGLE[:count, :count]
            totals.append(exponentials(view))
            product = score @ buffer.values[row, :, :columns]
            outputs.append(product.reshape(heads, count, -1))
        output = mx.concatenate(outputs, axis=1) / mx.array(np.concatenate(totals, axis=1))
        return output.swapaxes(0, 1)[:, :, None]

    def _together(self, queries: mx.array, buffer: _Buffer, window: int | None) -> mx.array:
        """With NumPy's products: MLX's BLAS would wake all cores for each small one."""
        _, heads, _, dim = queries.shape
        extent, key_heads = self._extent, buffer.keys.shape[1]
        first, last = int(extent.rows.min()), int(extent.rows.max()) + 1
        places = extent.rows - first
        width, columns = int(extent.steps.max()) + 1, int(extent.columns.max()) + 1
        keys, values = (view[first:last, :, :columns] for view in buffer.views)
        grid = np.zeros((last - first, heads, width, dim), np.float32)
        grid[places, :, extent.steps] = np.asarray(queries)[:, :, 0]
        scores = grid.reshape(last - first, key_heads, -1, dim) @ keys.swapaxes(-1, -2)
        view = scores.reshape(last - first, heads, width, columns)
        positions = np.zeros((last - first, width), np.intp)
        positions[places, extent.steps] = extent.columns
        view += _bias(positions, columns, window)[:, None]
        totals = exponentials(view)
        output = (scores @ values).reshape(last - first, heads, width, -1)
        output /= totals
        return mx.array(output[places, :, extent.steps][:, :, None])


def divided(counts: Sequence[int], cores: int) -> list[list[int]]:
    """Rows that have tokens in at most ``cores`` parts of nearly as many tokens each.

    Longest rows first, each into the part that has least. A division that leaves a core
    waiting, or parts so small that reading the weights for each costs more than it
    brings, is not made.
    """
    rows = [row for row, count in enumerate(counts) if count]
    total = sum(counts)
    for parts in range(min(cores, len(rows)), 1, -1):
        members: list[list[int]] = [[] for _ in range(parts)]
        sizes = [0] * parts
        for row in sorted(rows, key=lambda r: -counts[r]):
            least = sizes.index(min(sizes))
            members[least].append(row)
            sizes[least] += counts[row]
        if max(sizes) * parts <= MOST_UNEVEN * total and min(sizes) >= LEAST_TOKENS:
            return [sorted(part) for part in members]
    return [rows]


def _cut(counts: Sequence[tuple[int, int]], most: int) -> Iterator[list[tuple[int, int]]]:
    """Pairs of a row and its tokens in runs of at most ``most`` tokens, all as long."""
    total = sum(count for _, count in counts)
    size = -(-total // -(-total // most))
    run: list[tuple[int, int]] = []
    room = size
    for row, count in counts:
        left = count
        while left:
            taken = min(left, room)
            run.append((row, taken))
            left, room = left - taken, room - taken
            if not room:
                yield run
                run, room = [], size
    if run:
        yield run


def _bias(positions: Ints, columns: int, window: int | None) -> Floats:
    """What to add to scores (…, columns) of queries at ``positions`` (…)."""
    keys = np.arange(columns)
    unseen = keys > positions[..., None]
    if window is not None:
        unseen |= keys <= positions[..., None] - window
    return np.where(unseen, np.float32(UNSEEN), np.float32(0))


_TRIANGLE = _bias(np.arange(QUERY_BLOCK), QUERY_BLOCK, None)
