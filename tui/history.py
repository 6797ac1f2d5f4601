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

from ecellm_mlx.jobs import State, Status, events

RATE_WINDOW = 20
KEPT_SAMPLES = 30
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
class SampleAnswer:
    """One answer of the model while it was trained."""

    step: int | None
    task: str
    prediction: str
    reference: str


@dataclass(frozen=True)
class CatalogCounts:
    """How a catalog run stands; ``confidence`` counts answers in ten equal bins."""

    computed: int
    reused: int
    errors: int
    rejected: int
    confidence: tuple[int, ...]


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
    epoch: float = 0.0
    padding: float | None = None
    skipped_steps: int = 0
    dropped_rows: int = 0
    cut_rows: int = 0
    samples: tuple[SampleAnswer, ...] = ()
    catalog: CatalogCounts | None = None


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
        self._samples: deque[SampleAnswer] = deque(maxlen=KEPT_SAMPLES)
        self._dropped, self._cut = 0, 0
        self._padding: float | None = None
        self._catalog: events.CatalogMetrics | None = None

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
        elif self._catalog:
            step, total, unit = self._catalog.done, self._catalog.total, "rows"
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
            rows_per_second=metrics.rows_per_second if metrics else self._rows_rate(),
            peak_memory_gb=metrics.peak_memory_gb if metrics else None,
            eta_s=self._eta(total),
            epoch=metrics.epoch if metrics else 0.0,
            padding=metrics.padding if metrics and metrics.padding else self._padding,
            skipped_steps=metrics.skipped_steps if metrics else 0,
            dropped_rows=self._dropped,
            cut_rows=self._cut,
            samples=tuple(self._samples),
            catalog=self._counts(),
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
                return self._take_sample(event, moment)
            case events.CatalogMetrics():
                self._take_catalog(event, moment)
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
        facts = event.facts if isinstance(event.facts, dict) else {}
        self._dropped = int(facts.get("dropped_rows") or 0)
        self._cut = int(facts.get("cut_rows") or 0)
        self._padding = _real(facts.get("padding"))
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
            epoch=float(event.epoch),
            padding=float(event.padding),
            skipped_steps=int(event.skipped_steps),
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

    def _take_sample(self, event: events.Sample, moment: float) -> LogLine:
        answer = " ".join(str(event.prediction).split())
        step = None if event.step is None else int(event.step)
        reference = "" if event.reference is None else str(event.reference)
        self._samples.append(SampleAnswer(step, str(event.task), answer, reference))
        return LogLine(moment, f"{event.task}: {answer[:200]}")

    def _take_catalog(self, event: events.CatalogMetrics, moment: float) -> None:
        self._catalog = events.CatalogMetrics(
            done=int(event.done),
            total=int(event.total),
            computed=int(event.computed),
            reused=int(event.reused),
            errors=int(event.errors),
            rejected=int(event.rejected),
            rows_per_second=_real(event.rows_per_second),
            eta_seconds=_real(event.eta_seconds),
            confidence=[int(count) for count in event.confidence],
        )
        self._marks.append((moment, self._catalog.done))

    def _rows_rate(self) -> float | None:
        if self._catalog:
            return self._catalog.rows_per_second
        progress = self._progress
        return progress.per_second if progress and progress.unit == "rows" else None

    def _counts(self) -> CatalogCounts | None:
        if (metrics := self._catalog) is None:
            return None
        return CatalogCounts(
            metrics.computed,
            metrics.reused,
            metrics.errors,
            metrics.rejected,
            tuple(metrics.confidence),
        )

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
