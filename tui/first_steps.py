"""The way to a first result: which steps there are, and which are done.

Done is read from disk, never remembered: a model that is there, a run that has
finished. So steps taken in a shell count, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from ecellm_mlx.jobs import State
from tui.runs import RunSummary


@dataclass(frozen=True)
class Step:
    """One step; ``mode`` is the place where it is taken, with ``values`` filled in."""

    key: str
    title: str
    mode: str
    values: dict[str, str] = field(default_factory=dict)


STEPS = (
    Step(
        "model",
        "Get a model; SmolLM2 is small and needs no hub",
        "models",
        {"model": "smollm2-135m"},
    ),
    Step("data", "Look at the rows that a model is taught with", "data"),
    Step(
        "train",
        "Train an adapter on the sample rows",
        "train",
        {"model": "smollm2-135m", "recipe": "smollm2", "set:max_steps": "40"},
    ),
    Step("eval", "Evaluate it against its base", "evaluate"),
    Step("catalog", "Run it over a product table", "catalog"),
)


def done(models: int, runs: Sequence[RunSummary], seen: Sequence[str]) -> set[str]:
    """Keys of the steps that are done.

    Args:
        models: how many models are installed and usable.
        runs: the runs of the workspace.
        seen: places that were visited, which is all there is to do in some.
    """
    finished = {run.kind for run in runs if run.state is State.FINISHED}
    taken = {step.key for step in STEPS if step.key in finished}
    if models:
        taken.add("model")
    if "data" in seen:
        taken.add("data")
    return taken
