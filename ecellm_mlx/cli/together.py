"""``ecellm train`` and ``ecellm resume`` under ``mlx.launch``: one command, many machines.

The job runs in this process, which ``mlx.launch`` watches, and not in a child. The
first rank narrates and prints the result; the others are silent unless they fail.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import typer

from ecellm_mlx import jobs
from ecellm_mlx.cli.follow import follow
from ecellm_mlx.cli.output import emit, emit_json
from ecellm_mlx.distributed import followers
from ecellm_mlx.errors import JobError
from ecellm_mlx.jobs import events
from ecellm_mlx.training import setup


def train(
    model: str,
    data: str,
    recipe: str | None,
    overrides: Iterable[str],
    out: Path | None,
    *,
    force: bool,
    json: bool,
) -> None:
    """Train on all ranks and print the run on the first."""
    settings = list(overrides)
    _run(
        lambda on_leader: followers.start(
            lambda: setup.prepare(model, data, recipe, settings, force=force),
            lambda order: setup.create(order, out),
            on_leader,
        ),
        json,
    )


def resume(name: str, *, json: bool) -> None:
    """Resume on all ranks; the run is on the first one's machine."""
    _run(
        lambda start: followers.resume(lambda: jobs.require_resumable(jobs.find(name)), start),
        json,
    )


def _run(execute: Callable[[Callable[[jobs.RunDirectory], None]], int], json: bool) -> None:
    runs: list[jobs.RunDirectory] = []
    narrators: list[threading.Thread] = []

    def start(run: jobs.RunDirectory) -> None:
        runs.append(run)
        from_start = not run.events_file.exists()
        narrators.append(threading.Thread(target=_narrate, args=(run, from_start), daemon=True))
        narrators[0].start()

    status = execute(start)
    for narrator in narrators:
        narrator.join(timeout=5)
    if status:
        raise typer.Exit(status)
    for run in runs:
        ends = [e for e in run.reader().read() if isinstance(e, events.Finished)]
        if json:
            emit_json({"run": str(run.path), "outcome": ends[-1].outcome, **ends[-1].results})
        else:
            emit(str(run.path))


def _narrate(run: jobs.RunDirectory, from_start: bool) -> None:
    # Until the job of this process reports, the status is that of an earlier one.
    while run.status().pid != os.getpid():
        time.sleep(0.1)
    # The job itself says why it failed.
    with contextlib.suppress(JobError):
        follow(run, from_start=from_start)
