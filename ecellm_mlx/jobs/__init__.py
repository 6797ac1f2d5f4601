"""A job is a process and a directory, and the directory is the API.

Knows how jobs are created, started, found, ordered about and reported; knows the kinds of
jobs by name only, and loads no mlx. Faces and the rooms that do the work import it as
``from ecellm_mlx import jobs``; ``python -m ecellm_mlx.jobs RUN`` is the process of a job.

    process     create, find, start and execute a job
    directory   the files of a run: job.json, events.jsonl, status.json, control
    context     what a running job sees of its directory: orders, events, saving
    events      what a job says, one class for each kind of line
    lock        who owns a run
"""

from __future__ import annotations

from ecellm_mlx.jobs.context import PAUSE_POLL_S, JobContext
from ecellm_mlx.jobs.directory import Control, Job, RunDirectory, State, Status
from ecellm_mlx.jobs.process import (
    KINDS,
    create,
    execute,
    find,
    give_way,
    recent,
    require_resumable,
    runner,
    start,
    versions,
)

__all__ = [
    "KINDS",
    "PAUSE_POLL_S",
    "Control",
    "Job",
    "JobContext",
    "RunDirectory",
    "State",
    "Status",
    "create",
    "execute",
    "find",
    "give_way",
    "recent",
    "require_resumable",
    "runner",
    "start",
    "versions",
]
