"""The excerpts of the Leipzig catalogs as sides of a match."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ecellm_mlx import jobs
from ecellm_mlx.matching import job, pairs
from ecellm_mlx.matching.settings import MatchSettings
from ecellm_mlx.tables import open_table


def create(left: Path, right: Path, **settings: Any) -> jobs.RunDirectory:
    """A matching job."""
    return job.create(left, right, MatchSettings(**settings))


def side_of(path: Path) -> pairs.Side:
    """One of the excerpts as a side of a match."""
    table = open_table(path)
    return pairs.read(table, pairs.parts_of(table, (), "--map"))
