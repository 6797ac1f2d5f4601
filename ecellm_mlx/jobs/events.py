"""Typed events: what a job says, one JSON line each.

A job appends to ``events.jsonl``; faces tail it. A reader keeps its byte offset,
waits for a line's newline before it parses it, and reports a line that is not an
event instead of stopping at it.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar

from ecellm_mlx.files import storage_errors


@dataclass(frozen=True, kw_only=True)
class Event:
    """Base of all events. ``time`` is seconds since the epoch."""

    name: ClassVar[str] = "event"
    time: float = field(default_factory=time.time)

    def to_json(self) -> str:
        """One line. Non-finite numbers are written as null: JSON has no NaN."""
        return json.dumps({"event": self.name, **_finite(asdict(self))}, ensure_ascii=False)


@dataclass(frozen=True, kw_only=True)
class Started(Event):
    """The job's process is up and has read its configuration.

    ``facts`` are what the job found then. Training: ``train_rows``, ``val_rows``,
    ``dropped_rows`` (their whole answer lies behind the cutoff), ``cut_rows`` (a part of
    it), ``steps_per_epoch``, ``padding`` (share of computed tokens, 0 to 1),
    ``trainable_parameters``, ``ranks``.
    """

    name = "started"
    kind: str
    pid: int
    device: str
    resumed_from: int | None = None
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Progress(Event):
    """Work done so far, in the job's own unit (``rows``, ``steps``, ``bytes``)."""

    name = "progress"
    stage: str
    done: int
    total: int
    unit: str
    per_second: float | None = None


@dataclass(frozen=True, kw_only=True)
class TrainMetrics(Event):
    """One optimizer step.

    ``loss`` is the mean over its supervised tokens, or over its micro-batches where the
    recipe weighs these alike. ``padding`` is the share of computed tokens (0 to 1), and
    ``skipped_steps`` counts those that were not finite so far.
    """

    name = "train_metrics"
    step: int
    loss: float | None
    learning_rate: float
    grad_norm: float | None
    supervised_tokens: int
    tokens_per_second: float
    rows_per_second: float
    peak_memory_gb: float
    epoch: float = 0.0
    padding: float = 0.0
    skipped_steps: int = 0


@dataclass(frozen=True, kw_only=True)
class EvalMetrics(Event):
    """Validation at a step; evaluation jobs add their metrics."""

    name = "eval_metrics"
    step: int
    loss: float | None
    metrics: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class CatalogMetrics(Event):
    """How a catalog run stands. Rows that need no work count as done.

    ``computed`` answers are new, ``reused`` ones were in the journal before this process;
    ``confidence`` counts answers in ten bins from 0-0.1 to 0.9-1.
    """

    name = "catalog_metrics"
    done: int
    total: int
    computed: int
    reused: int
    errors: int
    rejected: int
    rows_per_second: float | None
    eta_seconds: float | None
    confidence: list[int]


@dataclass(frozen=True, kw_only=True)
class Sample(Event):
    """One answer of the model, to look at while a job runs."""

    name = "sample"
    task: str
    prompt: str
    prediction: str
    reference: str | None = None
    step: int | None = None


@dataclass(frozen=True, kw_only=True)
class Checkpoint(Event):
    """A checkpoint is complete on disk."""

    name = "checkpoint"
    step: int
    path: str
    best: bool = False


@dataclass(frozen=True, kw_only=True)
class Warned(Event):
    """Something the user should know that does not stop the job."""

    name = "warning"
    message: str


@dataclass(frozen=True, kw_only=True)
class Finished(Event):
    """The job has done what it was asked, or was stopped and lost nothing."""

    name = "finished"
    outcome: str
    results: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Failed(Event):
    """The job ended without its result; ``message`` is the user's sentence."""

    name = "failed"
    message: str
    step: int | None = None


@dataclass(frozen=True, kw_only=True)
class Unreadable(Event):
    """A line that is not an event (never written, only read)."""

    name = "unreadable"
    line: str


EVENT_TYPES: dict[str, type[Event]] = {
    cls.name: cls
    for cls in (
        Started,
        Progress,
        TrainMetrics,
        EvalMetrics,
        CatalogMetrics,
        Sample,
        Checkpoint,
        Warned,
        Finished,
        Failed,
    )
}


def parse_event(line: str) -> Event:
    """Parse one line; what is no event becomes ``Unreadable``, never an exception."""
    try:
        value = json.loads(line)
        cls = EVENT_TYPES[value.pop("event")]
        known = {f.name for f in fields(cls)}
        return cls(**{key: item for key, item in value.items() if key in known})
    except (ValueError, KeyError, TypeError, AttributeError):
        return Unreadable(line=line[:200])


class EventWriter:
    """Appends events to a file, each handed to the system as it is written.

    What a full disk does not take stays in memory, in its order and to the byte, and
    goes first when there is room again.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._pending = bytearray()
        with storage_errors(path):
            flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
            self._descriptor = os.open(path, flags, 0o644)
            end = os.fstat(self._descriptor).st_size
            if end and os.pread(self._descriptor, 1, end - 1) != b"\n":
                # A killed process can leave half a line; ours must start on its own.
                self._pending += b"\n"

    def write(self, event: Event) -> None:
        """Append one event.

        Raises:
            DiskFullError: it is kept, and written by a later call.
            StorageError: the file cannot be written.
        """
        self._pending += event.to_json().encode() + b"\n"
        self.flush()

    def flush(self) -> None:
        """Write what a full disk did not take before; raises as ``write``."""
        with storage_errors(self.path):
            while self._pending:
                del self._pending[: os.write(self._descriptor, self._pending)]

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)


class EventReader:
    """Reads the events that were added since the last call."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.offset = 0

    def read(self) -> Iterator[Event]:
        """New complete lines, in order. A missing file has none."""
        try:
            with self.path.open("rb") as stream:
                stream.seek(self.offset)
                block = stream.read()
        except FileNotFoundError:
            return
        end = block.rfind(b"\n") + 1
        self.offset += end
        # Not splitlines(): JSON may hold U+2028, which is no line break here.
        for line in block[:end].decode("utf-8", errors="replace").split("\n"):
            if line.strip():
                yield parse_event(line)


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value
