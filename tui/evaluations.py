"""Finished evaluations on disk, and what they say side by side.

Reads ``job.json``, ``metrics.json`` and predictions; starts nothing and loads no mlx.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ecellm_mlx import jobs, settings
from ecellm_mlx.errors import EcellmError, JobError
from ecellm_mlx.evaluation.settings import EvaluationSettings
from ecellm_mlx.jobs import RunDirectory, State

LISTED_RUNS = 300
SHOWN_ERRORS = 500


# What makes an evaluation on disk the one that is asked for.
ASKED = ("model", "adapter", "data", "tasks", "settings", "limit", "decodings", "endpoint")


def words(order: EvaluationSettings) -> list[str]:
    """The words after ``ecellm``; what is not chosen yet stands there in capitals."""
    model, data = order.model or "MODEL", order.data if order.data.name else Path("FILE")
    return ["eval", *settings.words(replace(order, model=model, data=data))]


@dataclass(frozen=True)
class Line:
    """One row of the comparison: a task under a setting, with a value for each run.

    ``values`` and ``invalid`` have an entry for each run, None where it has none.
    """

    task: str
    setting: str
    metric: str
    n: int
    values: tuple[float | None, ...]
    invalid: tuple[int | None, ...]


@dataclass(frozen=True)
class Miss:
    """A row that some run answered otherwise than its label."""

    id: str
    task: str
    expected: str
    answers: tuple[str | None, ...]
    prompt: str
    probability: float | None


def find(order: EvaluationSettings) -> RunDirectory | None:
    """The newest finished evaluation that did exactly what ``order`` asks."""
    for run, state in _runs_of(order, LISTED_RUNS):
        if state is State.FINISHED and (run.path / "metrics.json").is_file():
            return run
    return None


def find_live(order: EvaluationSettings) -> RunDirectory | None:
    """A running evaluation that does what ``order`` asks."""
    return next((run for run, state in _runs_of(order, 20) if state.live), None)


def create(order: EvaluationSettings) -> RunDirectory:
    """Create the run of an evaluation.

    Raises:
        EcellmError: what is wrong with the order.
    """
    from ecellm_mlx.evaluation import job

    return job.create(order)


def lines(runs: Sequence[RunDirectory | None], mode: str) -> list[Line]:
    """What the runs say, by task and setting, in the order of the first that has each.

    Args:
        runs: one for each column; None for a column without an evaluation.
        mode: ``official`` or ``strict``.
    """
    from ecellm_mlx.tasks.registry import TASKS

    scores = [_scores(run) for run in runs]
    keys: dict[tuple[str, str], None] = {}
    for score in scores:
        for task, by_setting in score.items():
            keys.update(dict.fromkeys((task, setting) for setting in by_setting))
    result = []
    for task, setting in keys:
        entries = [score.get(task, {}).get(setting) for score in scores]
        metric = TASKS[task].metric if task in TASKS else ""
        result.append(
            Line(
                task=task,
                setting=setting,
                metric=TASKS[task].metric_label if task in TASKS else "",
                n=next((int(e["n"]) for e in entries if e), 0),
                values=tuple(_value(e, mode, metric) for e in entries),
                invalid=tuple(int(e["invalid"]) if e else None for e in entries),
            )
        )
    return result


def misses(runs: Sequence[RunDirectory | None], data: Path, task: str) -> list[Miss]:
    """Rows of ``task`` that some run answers otherwise than the label, the surest first.

    Raises:
        EcellmError: the rows cannot be read.
    """
    from ecellm_mlx.data import prompts, rows

    answers = [_predictions(run) for run in runs]
    wrong_rows = []
    for row in rows.load(data, tasks=[task]):
        given = [a.get(row.id) for a in answers]
        texts = [None if g is None else str(g.get("prediction", "")) for g in given]
        wrong = [
            g
            for g, text in zip(given, texts, strict=True)
            if g is not None and (text or "").strip() != row.output.strip()
        ]
        if wrong:
            sure = [g["probability"] for g in wrong if isinstance(g.get("probability"), float)]
            wrong_rows.append(
                Miss(
                    row.id,
                    row.task,
                    row.output,
                    tuple(texts),
                    prompts.prompt(row, prompts.Frame.ALPACA),
                    max(sure, default=None),
                )
            )
    return sorted(wrong_rows, key=lambda miss: -(miss.probability or 0.0))[:SHOWN_ERRORS]


def _runs_of(order: EvaluationSettings, most: int) -> Iterator[tuple[RunDirectory, State]]:
    """The newest evaluations that did, or do, what ``order`` asks, with their states."""
    with contextlib.suppress(EcellmError):
        wanted = order.resolved()
        for run in jobs.recent(most):
            # What another version or a hand wrote is no evaluation that could be shown.
            with contextlib.suppress(JobError, OSError, KeyError, TypeError, ValueError):
                job = run.job()
                if job.kind != "eval":
                    continue
                kept = EvaluationSettings.from_json(job.config)
                if all(getattr(kept, key) == getattr(wanted, key) for key in ASKED):
                    yield run, run.status().state


def _scores(run: RunDirectory | None) -> dict[str, Any]:
    if run is None:
        return {}
    try:
        value = json.loads((run.path / "metrics.json").read_text(encoding="utf-8"))
        return dict(next(iter(value["decodings"].values())))
    except (OSError, ValueError, KeyError, AttributeError, StopIteration):
        return {}


def _value(entry: dict[str, Any] | None, mode: str, metric: str) -> float | None:
    value = (entry or {}).get(mode, {}).get(metric)
    return float(value) if isinstance(value, int | float) else None


def _predictions(run: RunDirectory | None) -> dict[str, dict[str, Any]]:
    by_id: dict[str, dict[str, Any]] = {}
    if run is None:
        return by_id
    with contextlib.suppress(OSError):
        text = (run.path / "predictions.jsonl").read_text(encoding="utf-8")
        for line in text.split("\n"):
            with contextlib.suppress(ValueError, KeyError, TypeError):
                item = json.loads(line)
                by_id[str(item["id"])] = item
    return by_id
