"""The directory of one job: its files, and what they say of the job's life.

    job.json       kind, configuration, versions, fingerprints; written once
    events.jsonl   what the job says (``ecellm_mlx.jobs.events``), append-only
    status.json    state, step, pid, heartbeat; replaced atomically
    control        one word from a face: pause, resume, checkpoint, stop
    job.log        stdout and stderr of the process
    lock           who owns the run (``ecellm_mlx.jobs.lock``)

Everything here can be done by any process; only the owner of the lock writes the
status. Knows no kinds of jobs.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import socket
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from enum import StrEnum
from pathlib import Path
from typing import Any

from ecellm_mlx.errors import DiskFullError, JobError
from ecellm_mlx.files import write_atomic, write_json
from ecellm_mlx.jobs import lock
from ecellm_mlx.jobs.events import EventReader
from ecellm_mlx.jobs.lock import Owner

# A process that was started and has not reported for so long never came up.
START_TIMEOUT_S = 60.0


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


# The same orders as signals. USR2 pauses a job that runs and resumes one that is paused.
SIGNALS = {
    Control.STOP: signal.SIGTERM,
    Control.CHECKPOINT: signal.SIGUSR1,
    Control.PAUSE: signal.SIGUSR2,
    Control.RESUME: signal.SIGUSR2,
}


@dataclass(frozen=True)
class Job:
    """``job.json``: all that is needed to run, resume or reproduce a job."""

    kind: str
    config: dict[str, Any]
    created: float
    versions: dict[str, str]
    fingerprints: dict[str, str]

    @property
    def model(self) -> str:
        """The model as it was asked for: its name, else its folder; empty without one."""
        return str(self.config.get("model_name") or self.config.get("model") or "")


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
    def status_file(self) -> Path:
        """The process's state; see ``Status``."""
        return self.path / "status.json"

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
        """Read ``status.json``; a live state without its process is reported as failed.

        Whether a process lives is asked of the system, never of the heartbeat: a laptop
        that slept for a night has an old heartbeat and a healthy job.
        """
        try:
            value = json.loads(self.status_file.read_text(encoding="utf-8"))
            status = Status(**value)
            status.state = State(status.state)
            status.step, status.total_steps = int(status.step), int(status.total_steps)
            status.heartbeat = float(status.heartbeat)
        except FileNotFoundError:
            status = Status(message="the process has not reported yet")
            with contextlib.suppress(FileNotFoundError):
                status.heartbeat = (self.path / "job.json").stat().st_mtime
            if time.time() - status.heartbeat > START_TIMEOUT_S:
                status.state = State.FAILED
                status.message = f"the process never started; see {self.log_file}"
            return status
        except (ValueError, TypeError) as error:
            return Status(state=State.FAILED, message=f"status.json is damaged: {error}")
        here = lock.is_here(self.status_file, status.host)
        if status.state.live and here and not self._lives(status):
            status.state = State.FAILED
            status.message = (
                "the process ended without a word: it was killed or ran out of memory; "
                f"see {self.log_file}"
            )
        return status

    def write_status(self, status: Status) -> None:
        """Replace ``status.json``."""
        write_json(self.status_file, asdict(status))

    def request(self, control: Control) -> None:
        """Ask the job to pause, resume, checkpoint or stop.

        The word goes into ``control``; where the disk is too full for a word, the
        order goes as a signal.

        Raises:
            JobError: the job is not running.
        """
        status = self.status()
        if not status.state.live:
            raise JobError(f"{self.path} is not running", got=f"state {status.state}")
        try:
            write_atomic(self.control_file, control.value)
        except DiskFullError:
            # USR2 toggles: it must not pause what shall be resumed.
            toggles = (control is Control.RESUME) is not (status.state is State.PAUSED)
            here = status.pid and status.host == socket.gethostname()
            if not here or (control in (Control.PAUSE, Control.RESUME) and toggles):
                raise
            os.kill(status.pid or 0, SIGNALS[control])

    def peek_request(self) -> Control | None:
        """The word in ``control``, left where it is."""
        try:
            word = self.control_file.read_text(encoding="utf-8", errors="replace").strip()
        except FileNotFoundError:
            return None
        return Control(word) if word in list(Control) else None

    def take_request(self) -> Control | None:
        """The word in ``control``, removed; an unknown word is dropped."""
        word = self.peek_request()
        self.control_file.unlink(missing_ok=True)
        return word

    def reader(self) -> EventReader:
        """A reader that starts at the first event."""
        return EventReader(self.events_file)

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Own this run for the time of the block.

        Raises:
            JobError: another live process owns it.
        """
        try:
            with lock.hold(self.path / "lock"):
                yield
        except lock.HeldError as error:
            raise self.in_use(error.owner) from None

    def owner(self) -> Owner | None:
        """The live process that owns this run, if there is one."""
        return lock.owner(self.path / "lock")

    def in_use(self, owner: Owner) -> JobError:
        """The error for a run that ``owner`` owns."""
        return JobError(
            f"{self.path} is in use by process {owner.pid or 'unknown'} on {owner.host}",
            cure=f"watch it with `ecellm watch {self.path}`, or stop it with "
            f"`ecellm stop {self.path}`",
        )

    def _lives(self, status: Status) -> bool:
        if status.pid is None:
            # Announced by the one who starts it; the process itself has not reported.
            return time.time() - status.heartbeat < START_TIMEOUT_S or bool(self.owner())
        # A clock that was set shifts what the system says of start times; the lock stays.
        return lock.lives(status.pid, status.pid_started) or bool(self.owner())


def config_fingerprint(config: dict[str, Any]) -> str:
    """Identity of a JSON-serializable configuration, as 64 hexadecimal digits."""
    text = json.dumps(config, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()
