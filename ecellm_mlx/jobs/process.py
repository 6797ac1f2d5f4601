"""A job as a process: create its directory, start it, find it, run it.

A face creates the directory, writes ``job.json`` and starts
``python -m ecellm_mlx.jobs RUN_DIR`` in a session of its own, so that neither a
closed terminal nor a crashed face ends it. From then on the directory is the only
channel (``ecellm_mlx.jobs.directory``); the process sees it through
``ecellm_mlx.jobs.context``. This module knows the kinds of jobs by name only and loads
no mlx itself.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import os
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

from ecellm_mlx import workspace
from ecellm_mlx.device import failures, mac
from ecellm_mlx.errors import DiskFullError, EcellmError, JobError
from ecellm_mlx.files import ensure_folder, remove_torn, storage_errors, write_json
from ecellm_mlx.jobs.context import JobContext, StopRequested
from ecellm_mlx.jobs.directory import Job, RunDirectory, State, Status
from ecellm_mlx.jobs.events import Failed, Finished

KINDS = {
    "train": "ecellm_mlx.training.loop:run_job",
    "eval": "ecellm_mlx.evaluation.job:run_job",
    "catalog": "ecellm_mlx.catalog.job:run_job",
    "match": "ecellm_mlx.matching.job:run_job",
}
# The work of a job: how it ended, and its results.
Runner = Callable[[JobContext], tuple[str, dict[str, Any]]]
GIVEN_WAY, LOWEST_PRIORITY = 5, 19  # nice values
# Whoever started a job of this length is at something else when it ends.
LONG_JOB_S = 600.0
VERSIONED = ("ecellm-mlx", "mlx", "mlx-lm", "transformers", "numpy")


def versions() -> dict[str, str]:
    """Versions of the packages that decide a result, without importing them."""
    by_package = {"python": ".".join(map(str, sys.version_info[:3]))}
    for name in VERSIONED:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            by_package[name] = importlib.metadata.version(name)
    return by_package


def create(
    kind: str,
    config: dict[str, Any],
    *,
    out: Path | None = None,
    fingerprints: dict[str, str] | None = None,
) -> RunDirectory:
    """Create a run directory with its ``job.json``.

    Args:
        kind: one of ``KINDS``.
        config: JSON-serializable configuration; paths as absolute strings.
        out: where; a new folder under the workspace when not given.
        fingerprints: digests of the base model and the data.

    Raises:
        JobError: ``out`` already holds a run.
        StorageError: ``out`` cannot be written.
    """
    path = ensure_folder(out.absolute()) if out else workspace.current().new_run(kind)
    if (path / "job.json").exists():
        raise JobError(
            f"{path} already holds a run",
            cure=f"go on with it by `ecellm resume {path}`, or give another --out",
        )
    job = Job(kind, config, time.time(), versions(), fingerprints or {})
    write_json(path / "job.json", asdict(job))
    return RunDirectory(path)


def start(run: RunDirectory) -> subprocess.Popen[bytes]:
    """Start the job's process, detached from this terminal.

    Raises:
        JobError: a process owns the run already.
    """
    if owner := run.owner():
        raise run.in_use(owner)
    # An order that a killed process did not take is not meant for the next one.
    run.control_file.unlink(missing_ok=True)
    # Who looks before the process has reported shall not see how the last one ended.
    before = run.status()
    announced = Status(
        step=before.step,
        total_steps=before.total_steps,
        host=socket.gethostname(),
        heartbeat=time.time(),
    )
    with contextlib.suppress(DiskFullError):
        run.write_status(announced)
    with storage_errors(run.log_file):
        log = run.log_file.open("ab")
    with log:
        process = subprocess.Popen(
            [sys.executable, "-m", "ecellm_mlx.jobs", str(run.path)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            cwd=run.path,
        )
    give_way(process.pid)
    mac.keep_awake(process.pid)
    # Linux may share out time by sessions first; the job's is its own.
    with contextlib.suppress(OSError):
        Path(f"/proc/{process.pid}/autogroup").write_text(str(GIVEN_WAY), encoding="ascii")
    return process


def give_way(pid: int) -> None:
    """Let a child that has just been started yield the processor to interactive programs.

    On an otherwise idle machine this changes nothing. Threads and processes that the
    child starts later inherit it.
    """
    # A child that has ended already needs no priority.
    with contextlib.suppress(ProcessLookupError):
        wanted = min(LOWEST_PRIORITY, os.getpriority(os.PRIO_PROCESS, 0) + GIVEN_WAY)
        os.setpriority(os.PRIO_PROCESS, pid, wanted)


def find(name: str) -> RunDirectory:
    """A run by folder or by its name in the workspace.

    Raises:
        JobError: there is no such run.
    """
    for path in (Path(name), workspace.current().runs / name):
        if (path / "job.json").exists():
            return RunDirectory(path.absolute())
    raise JobError(f"there is no run {name!r}", cure="list the runs with `ecellm runs`")


def require_resumable(run: RunDirectory) -> RunDirectory:
    """``run`` itself, if a new process can go on with it.

    Raises:
        JobError: it is running or finished.
    """
    state = run.status().state
    if state.live:
        raise JobError(
            f"{run.path} is still {state}", cure=f"watch it with `ecellm watch {run.path}`"
        )
    if state is State.FINISHED:
        raise JobError(f"{run.path} is finished", cure="start a new run")
    return run


def recent(limit: int = 20) -> list[RunDirectory]:
    """Runs of the workspace, newest first."""
    folder = workspace.current().runs
    dated: list[tuple[float, Path]] = []
    for path in folder.glob("*/job.json") if folder.is_dir() else ():
        # A run may be deleted while we look.
        with contextlib.suppress(OSError):
            dated.append((path.stat().st_mtime, path.parent))
    return [RunDirectory(path) for _, path in sorted(dated, reverse=True)[:limit]]


def runner(kind: str) -> Runner:
    """What does the work of a kind of job; its room is imported now, and may load mlx."""
    module, _, function = KINDS[kind].partition(":")
    return cast(Runner, getattr(importlib.import_module(module), function))


def execute(run: RunDirectory) -> int:
    """Run the job in this process; returns the exit status."""
    try:
        with run.lock():
            # Only this process writes it from here on.
            remove_torn(run.status_file)
            context = JobContext(run)
            began = time.monotonic()
            try:
                with context.signals():
                    return _execute_locked(context)
            finally:
                context.close()
                if time.monotonic() - began >= LONG_JOB_S:
                    mac.notify("ecellm", f"{run.path.name}: {context.status.state}")
    except EcellmError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_status


def _execute_locked(context: JobContext) -> int:
    context.set_state(State.STARTING)
    try:
        outcome, results = runner(context.job.kind)(context)
    except StopRequested:
        outcome, results = str(State.STOPPED), {}
    except EcellmError as error:
        return _fail(context, str(error))
    except Exception as error:  # noqa: BLE001 - the boundary of a process: nothing is above it
        traceback.print_exc()
        if meaning := failures.explain(error):
            return _fail(
                context, f"{meaning}; then go on with `ecellm resume {context.run.path}`."
            )
        return _fail(
            context,
            f"unexpected {type(error).__name__}: {error}; the traceback is in "
            f"{context.run.log_file}.",
        )
    context.emit(Finished(outcome=outcome, results=results))
    context.set_state(State(outcome))
    return 0


def _fail(context: JobContext, message: str) -> int:
    sys.stderr.write(message + "\n")
    context.emit(Failed(message=message, step=context.status.step))
    context.set_state(State.FAILED, message)
    return 1
