"""What a running job sees of the world: its run, its voice and its orders.

Orders come as a word in ``control`` or as a signal, and are taken where the job asks
for them: a handler only notes what came. A full disk silences a job and does not end
it: what it has to say is kept and written when there is room again.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ecellm_mlx.errors import DiskFullError
from ecellm_mlx.jobs import lock
from ecellm_mlx.jobs.directory import SIGNALS, Control, RunDirectory, State, Status
from ecellm_mlx.jobs.events import Event, EventWriter, Started, Warned

STATUS_INTERVAL_S = 0.5
PAUSE_POLL_S = 0.2
# Set aside while there is space, so that a job on a full disk can still say that it is.
RESERVE_BYTES = 128 * 1024


class StopRequested(Exception):  # noqa: N818 - an order, not an error
    """The user asked a job to stop while it had nothing to save."""


class JobContext:
    """The run of this process. Made by ``jobs.execute``, used by ``run_job``."""

    def __init__(self, run: RunDirectory) -> None:
        self.run = run
        self.job = run.job()
        before = run.status()
        me = lock.myself()
        # A resumed run keeps its step until the job says where it really starts.
        self.status = Status(
            step=before.step,
            total_steps=before.total_steps,
            pid=me.pid,
            pid_started=me.started,
            host=me.host,
        )
        self._events = EventWriter(run.events_file)
        self._status_written = 0.0
        self._orders: list[Control] = []
        self._stop = False
        self._reserve = _Reserve(run.path / ".reserve")
        self._reserve.fill()

    @property
    def config(self) -> dict[str, Any]:
        """The job's resolved configuration."""
        return self.job.config

    def emit(self, event: Event) -> None:
        """Append an event; on a full disk it is kept until there is room."""
        with contextlib.suppress(DiskFullError):
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

    @contextlib.contextmanager
    def signals(self) -> Iterator[None]:
        """Take SIGTERM and SIGINT as stop, USR1 as checkpoint, USR2 as pause or resume."""

        def stop(_signum: int, _frame: object) -> None:
            self._stop = True

        def checkpoint(_signum: int, _frame: object) -> None:
            self._orders.append(Control.CHECKPOINT)

        def toggle(_signum: int, _frame: object) -> None:
            paused = self.status.state is State.PAUSED
            self._orders.append(Control.RESUME if paused else Control.PAUSE)

        before = {
            number: signal.signal(number, handler)
            for number, handler in (
                (signal.SIGTERM, stop),
                (signal.SIGINT, stop),
                (SIGNALS[Control.CHECKPOINT], checkpoint),
                (SIGNALS[Control.PAUSE], toggle),
            )
        }
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def stop_requested(self) -> bool:
        """Whether a stop is waiting to be taken; long phases look between their parts."""
        return self._stop or self.run.peek_request() is Control.STOP

    def raise_if_stopped(self) -> None:
        """End the job here, where it has nothing to save.

        Raises:
            StopRequested: a stop is waiting.
        """
        if self.stop_requested():
            self.run.take_request()
            raise StopRequested

    def poll(self, on_pause: Callable[[], None] | None = None) -> Control | None:
        """The order to obey at this step boundary: CHECKPOINT, STOP or nothing.

        A pause is served here: ``on_pause`` runs (to save a checkpoint), then the
        call returns when the job is resumed or stopped.
        """
        request = self._next_order()
        if request is Control.PAUSE:
            if on_pause:
                on_pause()
            return self._wait("", on_pause)
        return None if request is Control.RESUME else request

    def save(self, write: Callable[[], None], what: str) -> bool:
        """Run ``write``; while the disk is full, pause until it works or the job stops.

        Args:
            write: saves something, and can be called again after ``DiskFullError``.
            what: what is saved, in words.

        Returns:
            Whether it was saved. False only if the job was stopped meanwhile; the order
            to stop is then still to be taken by ``poll``.
        """
        told = False
        while True:
            try:
                write()
            except DiskFullError as error:
                self._reserve.release()
                if self._stop:
                    # Asked to go: what cannot be written now is computed again later.
                    self.emit(Warned(message=f"{what} was not saved: {error}"))
                    return False
                message = (
                    f"paused, because {what} cannot be saved: {error.what}; free some space, "
                    f"then run `ecellm resume {self.run.path}`"
                )
                if not told:
                    self.emit(Warned(message=message))
                told = True
                if self._wait(message, None) is Control.STOP:
                    self._stop = True
            else:
                self._reserve.fill()
                return True

    def close(self) -> None:
        """Write what is left to say and close the event file."""
        self._reserve.release()
        with contextlib.suppress(DiskFullError):
            self._events.flush()
        self._events.close()

    def _next_order(self) -> Control | None:
        if self._stop:
            return Control.STOP
        if self._orders:
            return self._orders.pop(0)
        return self.run.take_request()

    def _wait(self, message: str, on_checkpoint: Callable[[], None] | None) -> Control | None:
        """Stay paused until resumed (None) or stopped (STOP)."""
        self.set_state(State.PAUSED, message)
        while True:
            request = self._next_order()
            if request is Control.CHECKPOINT and on_checkpoint:
                on_checkpoint()
            if request in (Control.RESUME, Control.STOP):
                self.set_state(State.RUNNING)
                return Control.STOP if request is Control.STOP else None
            time.sleep(PAUSE_POLL_S)
            self.advance(self.status.step)

    def _write_status(self) -> None:
        self.status.heartbeat = time.time()
        self._status_written = time.monotonic()
        try:
            self.run.write_status(self.status)
        except DiskFullError:
            self._reserve.release()
            with contextlib.suppress(DiskFullError):
                self.run.write_status(self.status)


class _Reserve:
    """A file that takes up a little space until it is needed for something else."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def fill(self) -> None:
        """Take the space, if there is any."""
        with contextlib.suppress(OSError):
            if not self.path.exists():
                self.path.write_bytes(os.urandom(RESERVE_BYTES))

    def release(self) -> None:
        """Give the space back."""
        with contextlib.suppress(OSError):
            self.path.unlink(missing_ok=True)
