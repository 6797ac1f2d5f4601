"""Excerpts of the Leipzig catalogs, and jobs that run in this process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ecellm_mlx import jobs
from ecellm_mlx.catalog import job
from ecellm_mlx.matching import pairs
from ecellm_mlx.tables import open_table

EXCERPTS = Path(__file__).parent / "excerpts"
# Closed answers are quick; a random model fills attributes with all the text it may.
KIND = {"mapping": ("title=title",), "labels": ("Books", "Lamps", "Shoes"), "name": "kind"}
AVE = {"task": "AVE", "mapping": ("product title=title",), "attributes": ("Brand",)}


@pytest.fixture
def google() -> Path:
    """Google products as published: Windows-1252, every cell quoted."""
    return EXCERPTS / "google_products_latin1.csv"


@pytest.fixture
def amazon() -> Path:
    """Amazon software as published."""
    return EXCERPTS / "amazon_software.csv"


@pytest.fixture
def matches() -> Path:
    """The known matches between the two excerpts, by id."""
    return EXCERPTS / "amazon_google_matches.csv"


def run_here(run: jobs.RunDirectory) -> tuple[str, dict[str, Any]]:
    """A job's outcome and results, without a process of its own."""
    context = jobs.JobContext(run)
    try:
        return job.run_job(context)
    finally:
        context.close()


def side_of(path: Path) -> pairs.Side:
    """One of the excerpts as a side of a match."""
    table = open_table(path)
    return pairs.read(table, pairs.parts_of(table, (), "--map"))
