"""KV cache of a batch whose rows have different lengths.

Every forward pass appends the same number of columns to all rows; a row that had
fewer tokens leaves holes. Each column knows its position in its row's text (−1 for
a hole), and attention is masked by positions. So nothing is ever moved: rows go on
by different numbers of tokens, and batches are joined side by side. mlx-lm's own
batch cache re-aligns all rows after every uneven step, which costs more than the
step itself on a CPU.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ecellm_mlx.device.backend import mx
from ecellm_mlx.device.protocol import Pass, Span

HOLE = -1
# Added to the score of a column that is not seen: far below any score, yet finite, as
# the score of a column of zeros is.
UNSEEN = -1e30
GROWTH = 64


class LayerCache:
    """One layer's keys and values (B, heads, capacity, dim), as mlx-lm's models use it."""

    def __init__(self, batch: BatchCache) -> None:
        self.batch = batch
        self.keys: mx.array | None = None
        self.values: mx.array | None = None
        self.used = 0

    @property
    def offset(self) -> mx.array:
        """Position of each row's next token (B,), for rotary embeddings."""
        return self.batch.offsets

    def make_mask(
        self, _length: int, return_array: bool = False, window_size: int | None = None
    ) -> mx.array | None:
        """Which columns the new tokens may see; None if all: (B or 1, 1, new, columns).

        Boolean, or a term for the scores where the cache is ``additive``.
        """
        del return_array
        return self.batch.mask(window_size)

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        """Append columns (B, heads, new, dim); returns all columns."""
        end = self.used + keys.shape[2]
        self.keys = _with_room(self.keys, keys, self.used, end)
        self.values = _with_room(self.values, values, self.used, end)
        self.keys[..., self.used : end, :] = keys
        self.values[..., self.used : end, :] = values
        self.used = end
        return self.keys[..., :end, :], self.values[..., :end, :]


class BatchCache:
    """The caches of all layers and the positions that they share.

    Attributes:
        positions: (B, columns) int32, ``HOLE`` where a row has no token.
        lengths: (B,) int32, tokens of each row.
        layers: what is passed to the model.

    Args:
        layer_count: layers that keep keys and values.
        rows: B.
        additive: masks are terms for the scores, where adding is cheaper than choosing.
    """

    def __init__(self, layer_count: int, rows: int, *, additive: bool = False) -> None:
        self.positions: NDArray[np.int32] = np.zeros((rows, 0), np.int32)
        self.lengths: NDArray[np.int32] = np.zeros(rows, np.int32)
        self.layers = [LayerCache(self) for _ in range(layer_count)]
        self.offsets = mx.array(self.lengths)
        self._additive = additive
        self._queries: NDArray[np.int32] = np.zeros((rows, 0), np.int32)
        self._masks: dict[int | None, mx.array | None] = {}

    def passes(self, continuations: Sequence[Sequence[int]], cores: int) -> list[list[Pass]]:
        """One pass, padded on the right."""
        del cores
        counts = [len(tokens) for tokens in continuations]
        width = max(counts)
        padded = np.zeros((len(counts), width), np.int32)
        for row, tokens in enumerate(continuations):
            padded[row, : len(tokens)] = tokens
        self._begin(counts)
        spans = [Span(row, row * width, n, last=True) for row, n in enumerate(counts) if n]
        return [[Pass(padded, self.layers, spans)]]

    def _begin(self, counts: Sequence[int]) -> None:
        """Announce a forward pass over max(counts) columns, of which row i fills counts[i]."""
        width = max(counts)
        steps = np.arange(width, dtype=np.int32)
        # A padding token looks at its row like the token it stands for: a query that
        # sees nothing would be NaN, and NaN spreads through masked values.
        self._queries = self.lengths[:, None] + steps
        filled = steps[None] < np.asarray(counts)[:, None]
        fresh = np.where(filled, self._queries, HOLE).astype(np.int32)
        self.positions = np.concatenate([self.positions, fresh], axis=1)
        self.offsets = mx.array(self.lengths)
        self.lengths = self.lengths + np.asarray(counts, np.int32)
        self._masks = {}

    def mask(self, window: int | None) -> mx.array | None:
        """The mask of the announced pass, computed once for all layers."""
        if window not in self._masks:
            keys, queries = self.positions[:, None, :], self._queries[:, :, None]
            seen = (keys != HOLE) & (keys <= queries)
            if window:
                seen &= keys > queries - window
            if seen.all():
                self._masks[window] = None
            elif self._additive:
                unseen = np.where(seen, np.float32(0), np.float32(UNSEEN))
                self._masks[window] = mx.array(unseen[:, None])
            else:
                self._masks[window] = mx.array(seen[:, None])
        return self._masks[window]

    def select(self, rows: Sequence[int]) -> BatchCache:
        """A new cache made of these rows; a row may appear more than once.

        Columns in which none of them has a token are left behind.
        """
        chosen = list(rows)
        result = BatchCache(len(self.layers), len(chosen), additive=self._additive)
        result.positions = self.positions[chosen]
        result.lengths = self.lengths[chosen]
        if self.layers[0].keys is None:
            return result
        filled = (result.positions != HOLE).any(axis=0)
        trims = not filled.all()
        if trims:
            result.positions = result.positions[:, filled]
            columns = mx.array(np.flatnonzero(filled))
        index = mx.array(chosen)
        for mine, theirs in zip(result.layers, self.layers, strict=True):
            assert theirs.keys is not None
            assert theirs.values is not None
            mine.used = result.positions.shape[1]
            mine.keys = theirs.keys[..., : theirs.used, :][index]
            mine.values = theirs.values[..., : theirs.used, :][index]
            if trims:
                mine.keys = mx.take(mine.keys, columns, axis=2)
                mine.values = mx.take(mine.values, columns, axis=2)
        return result

    def joined(self, others: Sequence[BatchCache]) -> BatchCache:
        """Side by side; narrower ones are filled up with holes."""
        caches = [self, *others]
        total = sum(len(cache.lengths) for cache in caches)
        result = BatchCache(len(self.layers), total, additive=self._additive)
        result.lengths = np.concatenate([cache.lengths for cache in caches])
        columns = max(cache.positions.shape[1] for cache in caches)
        result.positions = np.concatenate(
            [
                np.pad(
                    c.positions,
                    ((0, 0), (0, columns - c.positions.shape[1])),
                    constant_values=HOLE,
                )
                for c in caches
            ]
        )
        if columns:
            for place, layer in enumerate(result.layers):
                parts = [cache.layers[place] for cache in caches]
                layer.used = columns
                rows = [len(cache.lengths) for cache in caches]
                layer.keys = _side_by_side([(p.keys, p.used) for p in parts], rows, columns)
                layer.values = _side_by_side([(p.values, p.used) for p in parts], rows, columns)
        return result


def best_width(counts: Sequence[int], overhead: int) -> int:
    """Tokens that rows read in one padded pass, at most; row i has ``counts[i]`` pending.

    A pass costs a fixed part and one for each row and column, used or not. Where one
    row has a long forced run and the others a token each, it is cheaper to read the
    run bit by bit along with their tokens. The width with most tokens per cost wins.
    ``overhead`` is the fixed part, in tokens.
    """

    def rate(width: int) -> float:
        return sum(min(n, width) for n in counts) / (overhead + len(counts) * width)

    return max(sorted({n for n in counts if n}, reverse=True), key=rate)


def _with_room(buffer: mx.array | None, new: mx.array, used: int, end: int) -> mx.array:
    if buffer is not None and end <= buffer.shape[2]:
        return buffer
    batch, heads, _, dim = new.shape
    room = mx.zeros((batch, heads, end - used + GROWTH, dim), new.dtype)
    return room if buffer is None else mx.concatenate([buffer[..., :used, :], room], axis=2)


def _side_by_side(
    parts: Sequence[tuple[mx.array | None, int]], rows: Sequence[int], columns: int
) -> mx.array:
    """Arrays of which some columns are used, or None without any, as one of ``columns``."""
    like = next(array for array, _ in parts if array is not None)
    _, heads, _, dim = like.shape
    return mx.concatenate(
        [
            mx.zeros((count, heads, columns, dim), like.dtype)
            if array is None
            else mx.pad(array[..., :used, :], [(0, 0), (0, 0), (0, columns - used), (0, 0)])
            for (array, used), count in zip(parts, rows, strict=True)
        ]
    )
