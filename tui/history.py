"""The story of one run, folded from its events.

``RunHistory`` takes events one at a time and gives a ``RunView``: an immutable
picture that a screen can draw, and that a later picture can replace. It knows no
files and no widgets. A resumed run tells some steps twice; the later telling counts.
"""

from __future__ import annotations

import math
import time
from collections import deque
from dataclasses import dataclass
from typing import Literal

from ecellm_mlx import events
from ecellm_mlx.jobs import State, Status

RATE_WINDOW = 20
LATEST = 1e11  # seconds since the epoch, some three thousand years from now
Level = Literal["plain", "good", "warning", "error"]


@dataclass(frozen=True)
class Curve:
    """Points of a plot: ``steps[i]`` has ``values[i]``."""

    steps: tuple[int, ...] = ()
    values: tuple[float, ...] = ()

    @property
    def last(self) -> float | None:
        """The newest value."""
        return self.values[-1] if self.values else None


@dataclass(frozen=True)
class LogLine:
    """One line for people. ``time`` is seconds since the epoch."""

    time: float
    text: str
    level: Level = "plain"


@dataclass(frozen=True)
class RunView:
    """A picture of a run. ``problem`` says why the run cannot be read any more."""

    state: State = State.STARTING
    kind: str = ""
    step: int = 0
    total_steps: int = 0
    unit: str = "step"
    message: str = ""
    pending: str = ""
    problem: str = ""
    train: Curve = Curve()
    validation: Curve = Curve()
    learning_rate: float | None = None
    grad_norm: float | None = None
    tokens_per_second: float | None = None
    rows_per_second: float | None = None
    peak_memory_gb: float | None = None
    eta_s: float | None = None


class RunHistory:
    """Everything a run has said so far. ``failure`` is the sentence of a failed one."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._train: dict[int, float] = {}
        self._validation: dict[int, float] = {}
        self._metrics: events.TrainMetrics | None = None
        self._progress: events.Progress | None = None
        self.failure = ""
        self._marks: deque[tuple[float, int]] = deque(maxlen=RATE_WINDOW)

    def apply(self, event: events.Event) -> LogLine | None:
        """Take in one event; returns the line to log for it, if any."""
        try:
            return self._apply(event, _moment(event.time))
        except (TypeError, ValueError, AttributeError, OverflowError):
            # Valid JSON, but a field is of the wrong type.
            return _unreadable(f"{event}"[:200])

    def view(self, status: Status, *, pending: str = "") -> RunView:
        """The picture now, given what ``status.json`` and ``control`` say."""
        if status.state is not State.RUNNING:
            # A pause must not count into the speed.
            self._marks.clear()
        metrics, progress = self._metrics, self._progress
        step, total, unit = int(status.step), int(status.total_steps), "step"
        if metrics:
            step = max(step, metrics.step)
        elif progress and not total:
            step, total, unit = progress.done, progress.total, progress.unit
        failed = status.state is State.FAILED
        return RunView(
            state=status.state,
            kind=self.kind,
            step=step,
            total_steps=total,
            unit=unit,
            message=(self.failure or status.message) if failed else status.message,
            pending=pending if status.state.live else "",
            train=_curve(self._train),
            validation=_curve(self._validation),
            learning_rate=metrics.learning_rate if metrics else None,
            grad_norm=metrics.grad_norm if metrics else None,
            tokens_per_second=metrics.tokens_per_second if metrics else None,
            rows_per_second=metrics.rows_per_second if metrics else _rate(progress),
            peak_memory_gb=metrics.peak_memory_gb if metrics else None,
            eta_s=self._eta(total),
        )

    def _apply(self, event: events.Event, moment: float) -> LogLine | None:
        match event:
            case events.TrainMetrics():
                self._take_step(event, moment)
            case events.EvalMetrics():
                return self._take_validation(event, moment)
            case events.Progress():
                progress = events.Progress(
                    stage=str(event.stage),
                    done=int(event.done),
                    total=int(event.total),
                    unit=str(event.unit),
                    per_second=_real(event.per_second),
                )
                self._progress = progress
                self._marks.append((moment, progress.done))
            case events.Started():
                return self._take_start(event, moment)
            case events.Checkpoint():
                best = ", the best so far" if event.best else ""
                return LogLine(moment, f"step {event.step}: checkpoint saved{best}")
            case events.Warned():
                return LogLine(moment, str(event.message), "warning")
            case events.Sample():
                answer = " ".join(str(event.prediction).split())
                return LogLine(moment, f"{event.task}: {answer[:200]}")
            case events.Finished():
                return LogLine(moment, _ending(event), "good")
            case events.Failed():
                self.failure = str(event.message)
                return LogLine(moment, self.failure, "error")
            case events.Unreadable():
                return _unreadable(event.line)
        return None

    def _take_start(self, event: events.Started, moment: float) -> LogLine:
        self.failure = ""
        self._marks.clear()
        kept = int(event.resumed_from or 0)
        self._train = {step: loss for step, loss in self._train.items() if step <= kept}
        self._validation = {s: loss for s, loss in self._validation.items() if s <= kept}
        resumed = f", resumed from step {kept}" if kept else ""
        text = f"started on {event.device} as process {event.pid}{resumed}"
        return LogLine(moment, text)

    def _take_step(self, event: events.TrainMetrics, moment: float) -> None:
        step, loss = int(event.step), _real(event.loss)
        metrics = events.TrainMetrics(
            time=moment,
            step=step,
            loss=loss,
            learning_rate=float(event.learning_rate),
            grad_norm=_real(event.grad_norm),
            supervised_tokens=int(event.supervised_tokens),
            tokens_per_second=float(event.tokens_per_second),
            rows_per_second=float(event.rows_per_second),
            peak_memory_gb=float(event.peak_memory_gb),
        )
        if loss is not None:
            self._train[step] = loss
        self._metrics = metrics
        self._marks.append((moment, step))

    def _take_validation(self, event: events.EvalMetrics, moment: float) -> LogLine | None:
        step, loss = int(event.step), _real(event.loss)
        if loss is None:
            return None
        self._validation[step] = loss
        return LogLine(moment, f"step {step}: validation loss {loss:.4f}")

    def _eta(self, total: int) -> float | None:
        """Seconds to go at the speed of the last steps."""
        if len(self._marks) < 2 or not total:
            return None
        (began, first), (ended, last) = self._marks[0], self._marks[-1]
        if last <= first or last >= total or ended <= began:
            return None
        seconds = (total - last) * (ended - began) / (last - first)
        return max(0.0, seconds - max(0.0, time.time() - ended))


def _curve(points: dict[int, float]) -> Curve:
    return Curve(tuple(points), tuple(points.values()))


def _rate(progress: events.Progress | None) -> float | None:
    return progress.per_second if progress and progress.unit == "rows" else None


def _moment(value: float) -> float:
    """``value`` as a time that a clock can show.

    Raises:
        ValueError: it is none.
    """
    if not 0 <= (moment := float(value)) < LATEST:
        raise ValueError(value)
    return moment


def _real(value: float | None) -> float | None:
    """``value`` as a finite number, or None."""
    if value is None:
        return None
    number = float(value)
    return number if math.isfinite(number) else None


def _ending(event: events.Finished) -> str:
    results = event.results if isinstance(event.results, dict) else {}
    parts = [
        f"{label} {results[key]:.4f}"
        for key, label in (("loss", "loss"), ("best_validation_loss", "best validation loss"))
        if isinstance(results.get(key), float)
    ]
    return ": ".join([str(event.outcome), ", ".join(parts)] if parts else [str(event.outcome)])


def _unreadable(line: str) -> LogLine:
    return LogLine(time.time(), f"a line of events.jsonl is no event: {line[:80]}", "warning")
