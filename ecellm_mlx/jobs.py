"""A job is a process and a directory: start, watch, signal, run.

A face creates the directory, writes ``job.json`` and starts
``python -m ecellm_mlx.jobs RUN_DIR`` in a session of its own, so that neither a
closed terminal nor a crashed face ends it. From then on the directory is the
only channel:

    job.json       kind, configuration, versions, fingerprints; written once
    events.jsonl   what the job says (``ecellm_mlx.events``), append-only
    status.json    state, step, pid, heartbeat; replaced atomically
    control        one word from a face: pause, resume, checkpoint, stop
    job.log        stdout and stderr of the process
    lock           pid and host of the process that owns the run

This module knows the kinds of jobs by name only and loads no mlx itself.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import json
import os
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, fields
from enum import StrEnum
from pathlib import Path
from typing import Any

import psutil

from ecellm_mlx import workspace
from ecellm_mlx.errors import EcellmError, JobError
from ecellm_mlx.events import Event, EventReader, EventWriter, Failed, Finished, Started
from ecellm_mlx.files import ensure_folder, storage_errors, write_atomic, write_json

KINDS = {
    "train": "ecellm_mlx.training.loop:run_job",
    "eval": "ecellm_mlx.evaluation.evaluate:run_job",
    "catalog": "ecellm_mlx.catalog.job:run_job",
}
VERSIONED = ("ecellm-mlx", "mlx", "mlx-lm", "transformers", "numpy")
STATUS_INTERVAL_S = 0.5
PAUSE_POLL_S = 0.2


class State(StrEnum):
    """Life of a job. The first three belong to a live process."""

    STARTING = "starting"
    RUNNING = "running"
    PAUSED = "paused"
    STOPPED = "stopped"
    FINISHED = "finished"
    FAILED = "failed"

    @property
    def live(self) -> bool:
        """Whether a process should be behind this state."""
        return self in (State.STARTING, State.RUNNING, State.PAUSED)


class Control(StrEnum):
    """Words that a face may write to ``control``."""

    PAUSE = "pause"
    RESUME = "resume"
    CHECKPOINT = "checkpoint"
    STOP = "stop"


@dataclass(frozen=True)
class Job:
    """``job.json``: all that is needed to run, resume or reproduce a job."""

    kind: str
    config: dict[str, Any]
    created: float
    versions: dict[str, str]
    fingerprints: dict[str, str]


@dataclass
class Status:
    """``status.json``. ``heartbeat`` and ``pid_started`` are seconds since the epoch."""

    state: State = State.STARTING
    step: int = 0
    total_steps: int = 0
    pid: int | None = None
    pid_started: float | None = None
    host: str = ""
    heartbeat: float = 0.0
    message: str = ""


@dataclass(frozen=True)
class RunDirectory:
    """The files of one job."""

    path: Path

    @property
    def events_file(self) -> Path:
        """Append-only events."""
        return self.path / "events.jsonl"

    @property
    def log_file(self) -> Path:
        """The process's stdout and stderr."""
        return self.path / "job.log"

    @property
    def control_file(self) -> Path:
        """The latest word of a face that the job has not taken yet."""
        return self.path / "control"

    def job(self) -> Job:
        """Read ``job.json``.

        Raises:
            JobError: the folder is no run, or the file is damaged.
        """
        path = self.path / "job.json"
        try:
            value = json.loads(path.read_text(encoding="utf-8"))
            return Job(**{f.name: value[f.name] for f in fields(Job)})
        except FileNotFoundError:
            raise JobError(
                f"{self.path} is not a run: it has no job.json",
                cure="list the runs with `ecellm runs`",
            ) from None
        except (ValueError, KeyError, TypeError) as error:
            raise JobError(
                f"{path} is damaged", got=str(error), cure="start the job again"
            ) from None

    def status(self) -> Status:
        """Read ``status.json``; a live state without its process is reported as failed."""
        try:
            value = json.loads((self.path / "status.json").read_text(encoding="utf-8"))
            status = Status(**value)
            status.state = State(status.state)
            status.step, status.total_steps = int(status.step), int(status.total_steps)
            status.heartbeat = float(status.heartbeat)
        except FileNotFoundError:
            status = Status(message="the process has not reported yet")
            with contextlib.suppress(FileNotFoundError):
                status.heartbeat = (self.path / "job.json").stat().st_mtime
            if time.time() - status.heartbeat > 60:
                status.state = State.FAILED
                status.message = f"the process never started; see {self.log_file}"
            return status
        except (ValueError, TypeError) as error:
            return Status(state=State.FAILED, message=f"status.json is damaged: {error}")
        if status.state.live and status.host == socket.gethostname() and not _alive(status):
            status.state = State.FAILED
            status.message = (
                "the process ended without a word: it was killed or ran out of memory; "
                f"see {self.log_file}"
            )
        return status

    def write_status(self, status: Status) -> None:
        """Replace ``status.json``."""
        write_json(self.path / "status.json", asdict(status))

    def request(self, control: Control) -> None:
        """Ask the job to pause, resume, checkpoint or stop.

        Raises:
            JobError: the job is not running.
        """
        state = self.status().state
        if not state.live:
            raise JobError(f"{self.path} is not running", got=f"state {state}")
        write_atomic(self.control_file, control.value)

    def take_request(self) -> Control | None:
        """The word in ``control``, removed; an unknown word is dropped."""
        try:
            word = self.control_file.read_text(encoding="utf-8").strip()
            self.control_file.unlink()
        except FileNotFoundError:
            return None
        return Control(word) if word in list(Control) else None

    def reader(self) -> EventReader:
        """A reader that starts at the first event."""
        return EventReader(self.events_file)

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Own this run for the time of the block.

        Raises:
            JobError: another live process owns it.
        """
        path = self.path / "lock"
        mine = json.dumps({"pid": os.getpid(), "host": socket.gethostname()})
        while True:
            try:
                with storage_errors(path), path.open("x", encoding="utf-8") as stream:
                    stream.write(mine)
                break
            except EcellmError as error:
                if not isinstance(error.__cause__, FileExistsError):
                    raise
                self._clear_stale_lock(path)
        try:
            yield
        finally:
            path.unlink(missing_ok=True)

    def _clear_stale_lock(self, path: Path) -> None:
        try:
            owner = json.loads(path.read_text(encoding="utf-8"))
            pid, host = int(owner["pid"]), str(owner["host"])
        except FileNotFoundError:
            return
        except (ValueError, KeyError, TypeError):
            pid, host = 0, socket.gethostname()
        if host != socket.gethostname() or (pid and psutil.pid_exists(pid)):
            raise JobError(
                f"{self.path} is in use by process {pid} on {host}",
                cure=f"stop it first with `ecellm stop {self.path}`",
            )
        path.unlink(missing_ok=True)


class JobContext:
    """What a running job sees of the world: its run, its voice and its orders."""

    def __init__(self, run: RunDirectory) -> None:
        self.run = run
        self.job = run.job()
        self.status = Status(
            pid=os.getpid(),
            pid_started=psutil.Process().create_time(),
            host=socket.gethostname(),
        )
        self._events = EventWriter(run.events_file)
        self._status_written = 0.0
        self._stop_signal = False

    @property
    def config(self) -> dict[str, Any]:
        """The job's resolved configuration."""
        return self.job.config

    def emit(self, event: Event) -> None:
        """Append an event."""
        self._events.write(event)

    def started(
        self,
        *,
        device: str,
        total_steps: int,
        resumed_from: int | None = None,
        facts: dict[str, Any] | None = None,
    ) -> None:
        """Announce that work begins."""
        self.emit(
            Started(
                kind=self.job.kind,
                pid=os.getpid(),
                device=device,
                resumed_from=resumed_from,
                facts=facts or {},
            )
        )
        self.status.total_steps = total_steps
        self.set_state(State.RUNNING)

    def set_state(self, state: State, message: str = "") -> None:
        """Change the state, at once on disk."""
        self.status.state, self.status.message = state, message
        self._write_status()

    def advance(self, step: int) -> None:
        """Record the step; the file is written at most twice a second."""
        self.status.step = step
        if time.monotonic() - self._status_written >= STATUS_INTERVAL_S:
            self._write_status()

    def stop_on_signals(self) -> None:
        """Let SIGTERM and SIGINT ask for a clean stop at the next step boundary."""

        def request_stop(_signum: int, _frame: object) -> None:
            self._stop_signal = True

        signal.signal(signal.SIGTERM, request_stop)
        signal.signal(signal.SIGINT, request_stop)

    def poll(self, on_pause: Callable[[], None] | None = None) -> Control | None:
        """The order to obey at this step boundary: CHECKPOINT, STOP or nothing.

        A pause is served here: ``on_pause`` runs (to save a checkpoint), then the
        call returns when the job is resumed or stopped.
        """
        if self._stop_signal:
            return Control.STOP
        request = self.run.take_request()
        if request is not Control.PAUSE:
            return None if request is Control.RESUME else request
        if on_pause:
            on_pause()
        self.set_state(State.PAUSED)
        while True:
            time.sleep(PAUSE_POLL_S)
            self.advance(self.status.step)
            request = Control.STOP if self._stop_signal else self.run.take_request()
            if request in (Control.RESUME, Control.STOP):
                self.set_state(State.RUNNING)
                return Control.STOP if request is Control.STOP else None

    def close(self) -> None:
        """Close the event file."""
        self._events.close()

    def _write_status(self) -> None:
        self.status.heartbeat = time.time()
        self._status_written = time.monotonic()
        self.run.write_status(self.status)


def versions() -> dict[str, str]:
    """Versions of the packages that decide a result, without importing them."""
    found = {"python": ".".join(map(str, sys.version_info[:3]))}
    for name in VERSIONED:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


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
            cure="give another folder with --out, or remove it",
        )
    job = Job(kind, config, time.time(), versions(), fingerprints or {})
    write_json(path / "job.json", asdict(job))
    return RunDirectory(path)


def start(run: RunDirectory) -> subprocess.Popen[bytes]:
    """Start the job's process, detached from this terminal."""
    # An order that a killed process did not take is not meant for the next one.
    run.control_file.unlink(missing_ok=True)
    with storage_errors(run.log_file):
        log = run.log_file.open("ab")
    with log:
        return subprocess.Popen(
            [sys.executable, "-m", "ecellm_mlx.jobs", str(run.path)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            cwd=run.path,
        )


def find(name: str) -> RunDirectory:
    """A run by folder or by its name in the workspace.

    Raises:
        JobError: there is no such run.
    """
    for path in (Path(name), workspace.current().runs / name):
        if (path / "job.json").exists():
            return RunDirectory(path.absolute())
    raise JobError(f"there is no run {name!r}", cure="list the runs with `ecellm runs`")


def recent(limit: int = 20) -> list[RunDirectory]:
    """Runs of the workspace, newest first."""
    folder = workspace.current().runs
    found: list[tuple[float, Path]] = []
    for path in folder.glob("*/job.json") if folder.is_dir() else ():
        # A run may be deleted while we look.
        with contextlib.suppress(OSError):
            found.append((path.stat().st_mtime, path.parent))
    return [RunDirectory(path) for _, path in sorted(found, reverse=True)[:limit]]


def execute(run: RunDirectory) -> int:
    """Run the job in this process; returns the exit status."""
    try:
        with run.lock():
            context = JobContext(run)
            try:
                return _execute_locked(context)
            finally:
                context.close()
    except EcellmError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_status


def _execute_locked(context: JobContext) -> int:
    context.stop_on_signals()
    context.set_state(State.STARTING)
    try:
        module, _, function = KINDS[context.job.kind].partition(":")
        outcome, results = getattr(importlib.import_module(module), function)(context)
    except EcellmError as error:
        return _fail(context, str(error))
    except MemoryError:
        return _fail(
            context, "out of memory; use a smaller micro_batch_size or a smaller model."
        )
    except Exception as error:  # noqa: BLE001 - the boundary of a process: nothing is above it
        traceback.print_exc()
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


def _alive(status: Status) -> bool:
    if status.pid is None:
        return False
    try:
        process = psutil.Process(status.pid)
        same = status.pid_started is None or abs(process.create_time() - status.pid_started) < 1
        return same and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.stderr.write("usage: python -m ecellm_mlx.jobs RUN_DIR\n")
        raise SystemExit(2)
    raise SystemExit(execute(RunDirectory(Path(sys.argv[1]).absolute())))
