"""Set a training run up: check everything that can be checked without a model.

Used by the command line and the TUI alike; loads neither mlx nor transformers.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ecellm_mlx import jobs
from ecellm_mlx.data import rows
from ecellm_mlx.errors import RecipeError
from ecellm_mlx.jobs.directory import config_fingerprint
from ecellm_mlx.models import registry
from ecellm_mlx.models.fingerprint import base_fingerprint
from ecellm_mlx.training import plan
from ecellm_mlx.training import recipe as recipes


@dataclass(frozen=True)
class Prepared:
    """A checked order: what goes into ``job.json``."""

    config: dict[str, Any]
    fingerprints: dict[str, str]


def create_run(
    model: str,
    data: str,
    recipe: str | None = None,
    overrides: Iterable[str] = (),
    out: Path | None = None,
    *,
    force: bool = False,
) -> jobs.RunDirectory:
    """Create the run directory of a training job; ``jobs.start`` starts it.

    Args:
        model: registry name or folder of the base.
        data: folder with ``train.jsonl`` and, better, ``val.jsonl``.
        recipe: name or TOML file; the defaults when not given.
        overrides: ``key=value`` settings.
        out: run directory; a new one in the workspace when not given.
        force: start also what is predicted not to fit into memory.

    Raises:
        ModelError, DataError, RecipeError: what is wrong, before anything starts.
        JobError, StorageError: ``out`` cannot be used.
    """
    return create(prepare(model, data, recipe, overrides, force=force), out)


def create(prepared: Prepared, out: Path | None) -> jobs.RunDirectory:
    """The run directory for a prepared order.

    Raises:
        JobError, StorageError: ``out`` cannot be used.
    """
    return jobs.create("train", prepared.config, out=out, fingerprints=prepared.fingerprints)


def prepare(
    model: str,
    data: str,
    recipe: str | None = None,
    overrides: Iterable[str] = (),
    *,
    force: bool = False,
) -> Prepared:
    """Check an order and resolve its names; the arguments are those of ``create_run``.

    Raises:
        ModelError, DataError, RecipeError: what is wrong.
    """
    settings = recipes.read(recipe, overrides)
    base = registry.resolve(model)
    files = rows.dataset(Path(data))
    train_rows = rows.load(files.train)
    if not force:
        plan.refuse_what_cannot_fit(model, settings, train_rows)
    fingerprints = {"base": base_fingerprint(base), "train": rows.digest([files.train])}
    if settings.early_stop_patience and not files.val:
        raise RecipeError(
            f"early_stop_patience={settings.early_stop_patience} needs validation rows, and "
            f"{data} has none",
            cure="add val.jsonl, or set early_stop_patience=0",
        )
    if files.val:
        rows.load(files.val)
        fingerprints["val"] = rows.digest([files.val])
    config: dict[str, Any] = {
        "model": str(base.absolute()),
        "model_name": model,
        "train": str(files.train.absolute()),
        "val": str(files.val.absolute()) if files.val else None,
        "recipe_name": recipe,
        "recipe": settings.to_dict(),
    }
    fingerprints["recipe"] = config_fingerprint(config["recipe"])
    return Prepared(config, fingerprints)
