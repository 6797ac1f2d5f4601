"""Finished evaluations on disk, and what they say side by side.

Reads ``job.json``, ``metrics.json`` and predictions; starts nothing and loads no mlx.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ecellm_mlx import jobs
from ecellm_mlx.errors import EcellmError, JobError
from ecellm_mlx.jobs import RunDirectory, State
from ecellm_mlx.models import adapter_files, registry

LISTED_RUNS = 300
SHOWN_ERRORS = 500


@dataclass(frozen=True)
class Order:
    """One evaluation: what ``ecellm eval`` is told. An empty ``adapter`` is the base."""

    model: str
    data: str
    adapter: str = ""
    tasks: tuple[str, ...] = ()
    settings: tuple[str, ...] = ()
    limit: int | None = None
    decoding: str = "valid"

    def words(self) -> list[str]:
        """The command's words after ``ecellm``."""
        words = ["eval", "--model", self.model or "MODEL"]
        if self.adapter:
            words += ["--adapter", self.adapter]
        words += ["--data", self.data or "FILE"]
        for task in self.tasks:
            words += ["--task", task]
        for setting in self.settings:
            words += ["--setting", setting]
        if self.limit:
            words += ["--limit", str(self.limit)]
        if self.decoding != "valid":
            words += ["--decoding", self.decoding]
        return words


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


def find(order: Order) -> RunDirectory | None:
    """The newest finished evaluation that did exactly what ``order`` asks."""
    wanted = _wanted(order)
    if wanted is None:
        return None
    for run in jobs.recent(LISTED_RUNS):
        with contextlib.suppress(JobError, OSError):
            job = run.job()
            if job.kind == "eval" and _matches(job.config, wanted):
                state = run.status().state
                if state is State.FINISHED and (run.path / "metrics.json").is_file():
                    return run
    return None


def find_live(order: Order) -> RunDirectory | None:
    """A running evaluation that does what ``order`` asks."""
    wanted = _wanted(order)
    for run in jobs.recent(20) if wanted else ():
        with contextlib.suppress(JobError, OSError):
            job = run.job()
            mine = job.kind == "eval" and _matches(job.config, wanted or {})
            if mine and run.status().state.live:
                return run
    return None


def launch(order: Order) -> RunDirectory:
    """Create the run of an evaluation.

    Raises:
        EcellmError: what is wrong with the order.
    """
    from ecellm_mlx.evaluation import evaluate

    return evaluate.launch(
        order.model,
        Path(order.data),
        adapter=order.adapter or None,
        tasks=order.tasks,
        settings=order.settings,
        limit=order.limit,
        decodings=(order.decoding,),
    )


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
        for task, settings in score.items():
            keys.update(dict.fromkeys((task, setting) for setting in settings))
    found = []
    for task, setting in keys:
        entries = [score.get(task, {}).get(setting) for score in scores]
        metric = TASKS[task].metric if task in TASKS else ""
        found.append(
            Line(
                task=task,
                setting=setting,
                metric=TASKS[task].metric_label if task in TASKS else "",
                n=next((int(e["n"]) for e in entries if e), 0),
                values=tuple(_value(e, mode, metric) for e in entries),
                invalid=tuple(int(e["invalid"]) if e else None for e in entries),
            )
        )
    return found


def misses(runs: Sequence[RunDirectory | None], data: Path, task: str) -> list[Miss]:
    """Rows of ``task`` that some run answers otherwise than the label, the surest first.

    Raises:
        EcellmError: the rows cannot be read.
    """
    from ecellm_mlx.data import prompts, rows

    answers = [_predictions(run) for run in runs]
    found = []
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
            found.append(
                Miss(
                    row.id,
                    row.task,
                    row.output,
                    tuple(texts),
                    prompts.prompt(row, prompts.Frame.ALPACA),
                    max(sure, default=None),
                )
            )
    return sorted(found, key=lambda miss: -(miss.probability or 0.0))[:SHOWN_ERRORS]


def _wanted(order: Order) -> dict[str, Any] | None:
    from ecellm_mlx.tasks.registry import find as find_task

    try:
        return {
            "model": str(registry.resolve(order.model).absolute()),
            "adapter": str(adapter_files.folder_of(order.adapter)) if order.adapter else None,
            "data": str(Path(order.data).absolute()),
            "tasks": [find_task(task).name for task in order.tasks],
            "settings": list(order.settings),
            "limit": order.limit,
            "decodings": [order.decoding],
            "endpoint": None,
        }
    except EcellmError:
        return None


def _matches(config: dict[str, Any], wanted: dict[str, Any]) -> bool:
    return all(config.get(key) == value for key, value in wanted.items())


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
    found: dict[str, dict[str, Any]] = {}
    if run is None:
        return found
    with contextlib.suppress(OSError):
        text = (run.path / "predictions.jsonl").read_text(encoding="utf-8")
        for line in text.split("\n"):
            with contextlib.suppress(ValueError, KeyError, TypeError):
                item = json.loads(line)
                found[str(item["id"])] = item
    return found
