"""Rows cut into parts: every target is in one, and the largest is as small as can be."""

from __future__ import annotations

from itertools import combinations, pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from ecellm_mlx.data.batches import collate
from ecellm_mlx.data.encoding import Encoded
from ecellm_mlx.device.cpu.parts import cut

PAD = 0


@given(st.lists(st.integers(2, 90), min_size=1, max_size=9), st.integers(1, 5))
def test_parts_hold_every_target_and_the_largest_is_as_small_as_can_be(lengths, count):
    rows = [Encoded([9] * length, length - 1, True) for length in lengths]
    batch = collate(rows, range(len(rows)), PAD)
    parts = cut(batch, count)
    assert len(parts) == min(count, len(rows))
    assert sum(len(part.target_ids) for part in parts) == batch.supervised
    assert sorted(w for part in parts for w in widths(part)) == sorted(n - 1 for n in lengths)
    for part in parts:
        assert part.tokens.shape[1] == part.target_positions.max() + 1
        assert part.target_ids.tolist() == [9] * len(part.target_ids)
    ordered = sorted(n - 1 for n in lengths)
    cuts = combinations(range(1, len(rows)), len(parts) - 1)
    areas = (
        max((end - start) * ordered[end - 1] for start, end in pairwise((0, *cut, len(rows))))
        for cut in cuts
    )
    assert max(part.tokens.size for part in parts) == min(areas)


def widths(part):
    """Tokens of each row up to its last supervised position."""
    return [
        int(part.target_positions[part.target_rows == row].max()) + 1
        for row in range(len(part.tokens))
    ]


def test_parts_are_rows_of_the_batch():
    rng = np.random.default_rng(0)
    lengths = [9, 40, 12, 90, 31, 7, 55, 18, 26]
    rows = [Encoded(rng.integers(1, 500, n).tolist(), n // 2, True) for n in lengths]
    batch = collate(rows, range(len(rows)), PAD)
    whole = {
        (tuple(batch.tokens[row, : position + 1]), target)
        for row, position, target in zip(
            batch.target_rows, batch.target_positions, batch.target_ids, strict=True
        )
    }
    cut_rows = {
        (tuple(part.tokens[row, : position + 1]), target)
        for part in cut(batch, 3)
        for row, position, target in zip(
            part.target_rows, part.target_positions, part.target_ids, strict=True
        )
    }
    assert cut_rows == whole
