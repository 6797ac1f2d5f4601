"""The excerpts of the Leipzig catalogs as sides of a match."""

from __future__ import annotations

from pathlib import Path

from ecellm_mlx.matching import pairs
from ecellm_mlx.tables import open_table


def side_of(path: Path) -> pairs.Side:
    """One of the excerpts as a side of a match."""
    table = open_table(path)
    return pairs.read(table, pairs.parts_of(table, (), "--map"))
