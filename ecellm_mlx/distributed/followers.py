"""A run on several machines: what each process under ``mlx.launch`` does.

Every rank is started with the same command. The first one, the leader, owns the run
directory and runs the job as a single process would; the others follow it: they get
``job.json`` from the leader, read the model and the rows where these are on their own
machine, and write nothing.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Protocol, TypeVar

from ecellm_mlx import jobs
from ecellm_mlx.distributed import ranks
from ecellm_mlx.errors import EcellmError
from ecellm_mlx.jobs.context import JobContext
from ecellm_mlx.jobs.directory import Control, Job, RunDirectory, Status
from ecellm_mlx.jobs.events import Event
from ecellm_mlx.models import registry

T = TypeVar("T")


class Prepared(Protocol):
    """A checked order: the paths of ``config`` are those of this machine."""

    @property
    def config(self) -> dict[str, Any]: ...


Order = TypeVar("Order", bound=Prepared)
# What of a job's configuration is a path of one machine.
LOCAL = ("model", "train", "val")


class Follower(JobContext):
    """The context of a rank that neither speaks nor takes orders, but may be signalled."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.run = RunDirectory(Path())
        self.status = Status()
        self._status_written = 0.0
        self._orders: list[Control] = []
        self._stop = False

    def emit(self, event: Event) -> None:
        """The leader says it."""

    def stop_requested(self) -> bool:
        """Whether this process was asked to end."""
        return self._stop

    def raise_if_stopped(self) -> None:
        """A stop is taken together with the others, at the first step."""

    def poll(self, on_pause: Callable[[], None] | None = None) -> Control | None:
        """A signal to this process asks all ranks to stop; the leader serves pauses."""
        return Control.STOP if self._stop else None

    def close(self) -> None:
        """Nothing is open."""

    def _write_status(self) -> None:
        """The leader does."""


def start(
    prepare: Callable[[], Order],
    create: Callable[[Order], RunDirectory],
    on_leader: Callable[[RunDirectory], None] = lambda _: None,
) -> int:
    """Start a run on all ranks.

    Args:
        prepare: checks the order, on every rank with the files of its machine.
        create: makes the run directory, on the leader alone.
        on_leader: called on the leader with the run before the work starts.

    Returns:
        The exit status of this rank.

    Raises:
        EcellmError: on every rank, if one of them cannot start.
    """
    group = ranks.current()
    order = _together(group, prepare)
    run = _together(group, lambda: create(order) if group.leader else None)
    return _execute(group, run, on_leader, order.config)


def resume(
    find: Callable[[], RunDirectory],
    on_leader: Callable[[RunDirectory], None] = lambda _: None,
) -> int:
    """Go on with the run that ``find`` gives on the leader's machine, on all ranks.

    Raises:
        EcellmError: on every rank, if one of them cannot start.
    """
    group = ranks.current()
    run = _together(group, lambda: find() if group.leader else None)
    return _execute(group, run, on_leader, None)


def _execute(
    group: ranks.Ranks,
    run: RunDirectory | None,
    on_leader: Callable[[RunDirectory], None],
    local: dict[str, Any] | None,
) -> int:
    """The leader's job, or that of a follower, whose files are at ``local``."""
    text = json.dumps(asdict(run.job())) if run else ""
    job = Job(**json.loads(group.texts(text)[0]))
    if run:
        on_leader(run)
        return jobs.execute(run)
    job = replace(job, config={**job.config, **_local_files(job.config, local)})
    context = Follower(job)
    try:
        with context.signals():
            jobs.runner(job.kind)(context)
    except EcellmError as error:
        sys.stderr.write(f"rank {group.rank}: {error}\n")
        return error.exit_status
    return 0


def _local_files(config: dict[str, Any], local: dict[str, Any] | None) -> dict[str, Any]:
    """Where this machine has the model and the rows; their fingerprints are checked later."""
    if local:
        return {key: local[key] for key in LOCAL}
    if Path(config["model"]).is_dir():
        return {}
    return {"model": str(registry.resolve(config["model_name"]).absolute())}


def _together(group: ranks.Ranks, function: Callable[[], T]) -> T:
    """The function's result, or on every rank the error of the first that has one."""
    problem: EcellmError | None = None
    results = []
    try:
        results.append(function())
    except EcellmError as error:
        problem = error
    group.raise_together(problem)
    return results[0]
