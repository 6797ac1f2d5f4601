"""The rows of a micro-batch cut into parts, one for each core.

A part is as wide as its last supervised position asks for: no token behind that bears on
the loss, since a token never looks ahead. Rows without a target are in no part.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ecellm_mlx.device.protocol import Batch


@dataclass(frozen=True)
class Part:
    """Some rows of a micro-batch as a batch of their own; see ``protocol.Batch``.

    Attributes:
        rows: which ones, rising.
    """

    tokens: NDArray[np.int32]
    target_rows: NDArray[np.int32]
    target_positions: NDArray[np.int32]
    target_ids: NDArray[np.int32]
    rows: tuple[int, ...]


def cut(batch: Batch, count: int) -> list[Part]:
    """At most ``count`` parts, of which the largest is as small as can be."""
    widths = np.zeros(len(batch.tokens), np.int64)
    np.maximum.at(widths, batch.target_rows, batch.target_positions + 1)
    rows = np.argsort(widths, kind="stable")
    rows = rows[widths[rows] > 0]
    cuts = _even_cuts(widths[rows].tolist(), count)
    return [_part(batch, rows[start:end], widths) for start, end in cuts]


def _part(batch: Batch, rows: NDArray[np.int64], widths: NDArray[np.int64]) -> Part:
    """These rows, as wide as the widest of them."""
    rows = np.sort(rows)
    place = np.full(len(batch.tokens), -1, np.int32)
    place[rows] = np.arange(len(rows))
    chosen = place[batch.target_rows] >= 0
    return Part(
        tokens=batch.tokens[rows, : widths[rows].max()],
        target_rows=place[batch.target_rows[chosen]],
        target_positions=batch.target_positions[chosen],
        target_ids=batch.target_ids[chosen],
        rows=tuple(rows.tolist()),
    )


def _even_cuts(widths: list[int], count: int) -> list[tuple[int, int]]:
    """Cut rows of rising width into ``count`` ranges whose largest rows × width is least."""
    unknown: tuple[int, list[int]] = (sys.maxsize, [])
    # best[n]: the largest range, and where ranges start, when the first n rows make k.
    best: list[tuple[int, list[int]]] = [(0, []), *([unknown] * len(widths))]
    for _ in range(min(count, len(widths))):
        longer = [unknown]
        for end in range(1, len(widths) + 1):
            area = [(end - start) * widths[end - 1] for start in range(end)]
            start = min(range(end), key=lambda n: max(best[n][0], area[n]))
            longer.append((max(best[start][0], area[start]), [*best[start][1], start]))
        best = longer
    starts = best[-1][1]
    return list(zip(starts, [*starts[1:], len(widths)], strict=True))
