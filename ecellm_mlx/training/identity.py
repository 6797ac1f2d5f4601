"""What makes a run the run that it was: its base, rows and recipe, and its machine.

The first three may not change between a start and a resume, and what changed is
named. The last one may, and then the last bits of a result may differ.
"""

from __future__ import annotations

from pathlib import Path

from ecellm_mlx import device
from ecellm_mlx.data import rows
from ecellm_mlx.errors import JobError
from ecellm_mlx.jobs import versions
from ecellm_mlx.jobs.directory import Job, config_fingerprint
from ecellm_mlx.training import checkpoint

WORDS = {"base": "base model", "train": "training rows", "val": "validation rows"}


def check_inputs(job: Job, base_fingerprint: str) -> None:
    """Refuse a base or rows that are not those of ``job.json``.

    Raises:
        JobError: names all that changed.
    """
    now = {"base": base_fingerprint, "train": rows.digest([Path(job.config["train"])])}
    if job.config.get("val"):
        now["val"] = rows.digest([Path(job.config["val"])])
    changed = [name for name, value in now.items() if job.fingerprints.get(name) != value]
    if changed:
        raise JobError(
            f"the {' and the '.join(WORDS[name] for name in changed)} changed since this "
            "run was created",
            cure="restore them, or start a new run with `ecellm train`",
        )


def check_recipe(job: Job, newest: Path | None) -> None:
    """Refuse a recipe that was edited in ``job.json`` after the run was created.

    Args:
        job: the run's ``job.json``.
        newest: a checkpoint, from which the settings that changed are known.

    Raises:
        JobError: names the settings that changed.
    """
    now = job.config["recipe"]
    if config_fingerprint(now) == job.fingerprints.get("recipe"):
        return
    before = checkpoint.recipe_of(newest) if newest else {}
    keys = [key for key in {**before, **now} if before and before.get(key) != now.get(key)]
    named = ", ".join(f"{key} {before.get(key)} → {now.get(key)}" for key in keys)
    raise JobError(
        f"the recipe changed since this run was created{f' ({named})' if named else ''}",
        cure="undo the edit of job.json, or start a new run with `ecellm train`",
    )


def conditions() -> dict[str, str]:
    """What decides the bits of a result besides the run's own files."""
    return {**device.conditions(), **versions()}
