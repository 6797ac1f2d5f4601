"""What catalog jobs are asked for, and jobs that run in this process."""

from __future__ import annotations

from typing import Any

from ecellm_mlx import jobs
from ecellm_mlx.catalog import job

# Closed answers are quick; a random model fills attributes with all the text it may.
KIND = {"mapping": ("title=title",), "labels": ("Books", "Lamps", "Shoes"), "name": "kind"}
AVE = {"task": "AVE", "mapping": ("product title=title",), "attributes": ("Brand",)}


def run_here(run: jobs.RunDirectory) -> tuple[str, dict[str, Any]]:
    """A job's outcome and results, without a process of its own."""
    context = jobs.JobContext(run)
    try:
        return job.run_job(context)
    finally:
        context.close()
