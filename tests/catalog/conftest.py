"""What catalog jobs are asked for, and jobs that run in this process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ecellm_mlx import jobs
from ecellm_mlx.catalog import job
from ecellm_mlx.catalog.settings import CatalogSettings
from ecellm_mlx.data.question import build
from ecellm_mlx.settings import described
from ecellm_mlx.tables import open_table

# Closed answers are quick; a random model fills attributes with all the text it may.
KIND = {"mapping": ("title=title",), "labels": ("Books", "Lamps", "Shoes"), "name": "kind"}
AVE = {"task": "AVE", "mapping": ("product title=title",), "attributes": ("Brand",)}


def create(table: Path, *, run: Path | None = None, **options: Any) -> jobs.RunDirectory:
    """A catalog job from settings and what is asked, by name."""
    keys = {setting.key for setting in described(CatalogSettings)}
    settings = {key: options.pop(key) for key in keys & options.keys()}
    question = build(open_table(table).names, **{"task": None, **options})
    return job.create(table, question, CatalogSettings(**settings), run=run)


def run_here(run: jobs.RunDirectory) -> tuple[str, dict[str, Any]]:
    """A job's outcome and results, without a process of its own."""
    context = jobs.JobContext(run)
    try:
        return job.run_job(context)
    finally:
        context.close()
