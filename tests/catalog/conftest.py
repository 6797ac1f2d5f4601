"""What catalog jobs are asked for, and jobs that run in this process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ecellm_mlx import jobs
from ecellm_mlx.catalog import job
from ecellm_mlx.catalog.settings import CatalogSettings, Reading
from ecellm_mlx.data.question import build
from ecellm_mlx.settings import described

# Closed answers are quick; a random model fills attributes with all the text it may.
KIND = {"mapping": ("title=title",), "labels": ("Books", "Lamps", "Shoes"), "name": "kind"}
AVE = {"task": "AVE", "mapping": ("product title=title",), "attributes": ("Brand",)}


def create(table: Path, *, run: Path | None = None, **options: Any) -> jobs.RunDirectory:
    """A catalog job from settings and what is asked, by name."""

    def of(group: type[Any]) -> dict[str, Any]:
        keys = {setting.key for setting in described(group)}
        return {key: options.pop(key) for key in keys & options.keys()}

    settings, reading = CatalogSettings(**of(CatalogSettings)), Reading(**of(Reading))
    question = build(reading.open(table).names, **{"task": None, **options})
    return job.create(table, question, settings, reading=reading, run=run)


def run_here(run: jobs.RunDirectory) -> tuple[str, dict[str, Any]]:
    """A job's outcome and results, without a process of its own."""
    context = jobs.JobContext(run)
    try:
        return job.run_job(context)
    finally:
        context.close()
