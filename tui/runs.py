"""Runs on disk, summed up for a list. Reads ``job.json`` and ``status.json`` only."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from ecellm_mlx import jobs
from ecellm_mlx.errors import JobError
from ecellm_mlx.jobs import RunDirectory, State

LISTED = 50


@dataclass(frozen=True)
class RunSummary:
    """One row of a list of runs. ``age_s`` counts from the creation of the run."""

    path: Path
    state: State
    kind: str = ""
    model: str = ""
    step: int = 0
    total_steps: int = 0
    age_s: float = 0.0
    problem: str = ""

    @property
    def name(self) -> str:
        """The folder's name, which ``ecellm`` takes as well."""
        return self.path.name


def summarize(run: RunDirectory) -> RunSummary:
    """Sum up one run; a damaged one is listed as failed, with its problem."""
    try:
        return _summarize(run)
    except (JobError, OSError) as error:
        return RunSummary(run.path, State.FAILED, problem=str(error))
    except (TypeError, ValueError, AttributeError) as error:
        return RunSummary(run.path, State.FAILED, problem=f"{run.path} is damaged: {error}")


def listing() -> list[RunSummary]:
    """Runs of the workspace: live ones first, then newest first.

    Raises:
        OSError: the runs' folder cannot be read.
    """
    summaries = [summarize(run) for run in jobs.recent(LISTED)]
    return sorted(summaries, key=lambda summary: not summary.state.live)


def live() -> list[RunSummary]:
    """Runs with a process behind them."""
    return [summary for summary in listing() if summary.state.live]


def _summarize(run: RunDirectory) -> RunSummary:
    job, status = run.job(), run.status()
    return RunSummary(
        path=run.path,
        state=status.state,
        kind=job.kind,
        model=Path(job.model).name,
        step=int(status.step),
        total_steps=int(status.total_steps),
        age_s=time.time() - job.created,
        problem=status.message if status.state is State.FAILED else "",
    )
