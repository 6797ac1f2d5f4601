"""Finished evaluations as they are compared: one system for each decoding of a run."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ecellm_mlx.data import rows as rows_module
from ecellm_mlx.data.rows import Row
from ecellm_mlx.errors import DataError
from ecellm_mlx.evaluation import predictions
from ecellm_mlx.evaluation.plots import Interval
from ecellm_mlx.tasks.registry import Task


@dataclass(frozen=True)
class System:
    """One set of answers with its figures: a decoding of a finished run."""

    name: str
    run: Path
    metrics: dict[str, Any]
    decoding: str
    answers: dict[str, str]
    probabilities: dict[str, float]

    def scores(self, task: str, setting: str) -> dict[str, Any]:
        """Scores of a (task, setting); empty if it was not evaluated."""
        scores = self.metrics["decodings"][self.decoding]
        return dict(scores.get(task, {}).get(setting, {}))

    def details(self, task: str, setting: str) -> dict[str, Any]:
        """Breakdowns of a (task, setting)."""
        details = self.metrics["details"][self.decoding]
        return dict(details.get(task, {}).get(setting, {}))

    def text_scores(self, rows: Sequence[Row]) -> dict[tuple[str, str], list[float]]:
        """BERTScore by answer and expected answer, of the rows that have one."""
        by_setting = self.metrics["details"][self.decoding].values()
        known = {
            identity: values
            for settings in by_setting
            for entry in settings.values()
            for identity, values in entry.get("bertscore", {}).items()
        }
        return {
            (self.answers[row.id], row.output): known[row.id] for row in rows if row.id in known
        }

    def interval(self, task: Task, setting: str, mode: str) -> Interval:
        """The headline's interval."""
        intervals = self.details(task.name, setting).get("intervals", {})
        values = intervals.get(mode, {}).get(task.metric)
        return (values[0], values[1]) if values else None


def load(run: Path) -> list[System]:
    """The systems of a finished evaluation, one for each decoding.

    Raises:
        DataError: the run has no figures.
    """
    path = run / "metrics.json"
    try:
        metrics = json.loads(path.read_text(encoding="utf-8"))
        decodings = list(metrics["decodings"])
        name = Path(metrics["model"]).name
        _ = metrics["details"], metrics["data"], metrics["n"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{run} is no finished evaluation",
            got=f"{type(error).__name__}: {error}",
            expected="a run of `ecellm eval` with metrics.json",
            cure="let it finish with `ecellm resume`",
        ) from None
    if metrics.get("endpoint"):
        name += f" at {metrics['endpoint']['url']}"
    if metrics["adapter"]:
        adapter = Path(metrics["adapter"])
        # A run keeps its adapter in a folder that is always called so.
        name += f" + {adapter.parent.name if adapter.name == 'adapter' else adapter.name}"
    systems = []
    values = " of source texts" if metrics.get("values") == "source" else ""
    for decoding in decodings:
        plain = decoding == decodings[0]
        file = run / (predictions.FILE if plain else f"predictions.{decoding}.jsonl")
        read = predictions.read(file)
        systems.append(
            System(
                f"{name} ({decoding}{values if decoding == 'valid' else ''})",
                run,
                metrics,
                decoding,
                read.answers,
                read.probabilities,
            )
        )
    return systems


def distinct(systems: list[System]) -> list[System]:
    """Systems with names of their own."""
    seen: dict[str, int] = {}
    result = []
    for system in systems:
        number = seen[system.name] = seen.get(system.name, 0) + 1
        name = system.name if number == 1 else f"{system.name} #{number}"
        result.append(replace(system, name=name))
    return result


def rows_of(systems: Sequence[System]) -> list[Row]:
    """The rows that the systems were evaluated on, from the file that they name.

    Raises:
        DataError: the file is gone, or a system was evaluated on other rows.
    """
    rows = rows_module.load(Path(systems[0].metrics["data"]))
    known = {row.id for row in rows}
    for system in systems:
        if strangers := [key for key in system.answers if key not in known]:
            raise DataError(
                f"{system.name} was evaluated on other rows than {systems[0].name}",
                got=f"id {strangers[0]!r}",
                expected=f"ids of {systems[0].metrics['data']}",
                cure="report runs of the same file together",
            )
    return rows
