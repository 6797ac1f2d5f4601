"""Watch a job from a terminal or a pipe until it ends.

Ctrl-C asks the job to stop at its next step and save; a second one leaves it
running and returns.
"""

from __future__ import annotations

import contextlib
import sys
import time
from typing import Any

from ecellm_mlx.cli.output import narrate
from ecellm_mlx.errors import JobError
from ecellm_mlx.jobs import Control, RunDirectory, State, events

POLL_S = 0.25
# In a pipe, one line at most this often.
LINE_INTERVAL_S = 5.0


def follow(run: RunDirectory, *, from_start: bool = True) -> dict[str, Any]:
    """Narrate a run on stderr until it ends.

    Args:
        run: the run.
        from_start: repeat what it said before.

    Returns:
        The results of its ``finished`` event; empty when the user left it running.

    Raises:
        JobError: it failed.
    """
    reader = run.reader()
    if not from_start:
        list(reader.read())
    view = _Live(run) if sys.stderr.isatty() else _Lines()
    results: dict[str, Any] = {}
    asked = paused = False
    with view:
        while True:
            try:
                status = run.status()
                state = status.state
                for event in reader.read():
                    view.show(event)
                    if isinstance(event, events.Finished):
                        results = {"outcome": event.outcome, **event.results}
                if not state.live:
                    break
                if (state is State.PAUSED) is not paused:
                    paused = not paused
                    narrate(_pause(run, status.message) if paused else "resumed")
                time.sleep(POLL_S)
            except KeyboardInterrupt:
                if asked:
                    narrate(f"left running; watch it with `ecellm watch {run.path}`")
                    return {}
                asked = True
                narrate("stopping at the next step; press Ctrl-C again to leave it running")
                # It may have ended by itself a moment ago.
                with contextlib.suppress(JobError):
                    run.request(Control.STOP)
    status = run.status()
    if status.state is State.FAILED:
        raise JobError(status.message.rstrip(".") or f"{run.path} failed")
    return results


def _pause(run: RunDirectory, why: str) -> str:
    """A pause in words; a job that pauses by itself says why."""
    told = why or "paused"
    return told if "ecellm resume" in told else f"{told}; go on with `ecellm resume {run.path}`"


def describe(event: events.Event) -> str:
    """One line for an event, or nothing where it is not worth one."""
    match event:
        case events.Started():
            resumed = f", resumed from step {event.resumed_from}" if event.resumed_from else ""
            return f"{event.kind} started on {event.device} (pid {event.pid}){resumed}"
        case events.Progress():
            rate = f", {event.per_second:.1f}/s" if event.per_second else ""
            return f"{event.stage}: {event.done}/{event.total} {event.unit}{rate}"
        case events.TrainMetrics():
            loss = "not finite" if event.loss is None else f"{event.loss:.4f}"
            return (
                f"step {event.step}: loss {loss}, lr {event.learning_rate:.2e}, "
                f"{event.tokens_per_second:.0f} tokens/s, peak {event.peak_memory_gb:.2f} GB"
            )
        case events.EvalMetrics(loss=float(loss)):
            return f"step {event.step}: validation loss {loss:.4f}"
        case events.Checkpoint():
            return f"step {event.step}: checkpoint {event.path}"
        case events.Warned():
            return f"warning: {event.message}"
    return ""


class _Lines:
    """For pipes and logs: plain lines, repetitive ones at intervals."""

    def __init__(self) -> None:
        self._last = 0.0

    def __enter__(self) -> _Lines:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def show(self, event: events.Event) -> None:
        """Print the event's line."""
        repetitive = isinstance(event, events.Progress | events.TrainMetrics)
        if repetitive and time.monotonic() - self._last < LINE_INTERVAL_S:
            return
        if text := describe(event):
            if repetitive:
                self._last = time.monotonic()
            narrate(text)


class _Live:
    """For terminals: a progress bar, and lines above it for what stays true."""

    def __init__(self, run: RunDirectory) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        self._run = run
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.completed:.0f}/{task.total:.0f}"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
            console=Console(stderr=True, highlight=False),
            transient=True,
        )
        self._bar = self._progress.add_task("starting", total=None, note="", visible=False)

    def __enter__(self) -> _Live:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def show(self, event: events.Event) -> None:
        """Update the bar or print a line."""
        if isinstance(event, events.Progress):
            self._update(event.stage, event.done, event.total, "")
        elif isinstance(event, events.TrainMetrics):
            loss = "—" if event.loss is None else f"{event.loss:.3f}"
            note = f"loss {loss} · {event.tokens_per_second:.0f} tok/s"
            self._update("train", event.step, self._run.status().total_steps, note)
        elif text := describe(event):
            self._progress.console.print(text, markup=False)

    def _update(self, name: str, done: int, total: int, note: str) -> None:
        self._progress.update(
            self._bar, description=name, completed=done, total=total, note=note, visible=True
        )
