"""What a run is made of: its rows as tokens, its base, its recipe, its machine.

Says what the cutoff costs and refuses a set that has nothing to learn. Base, rows and
recipe may not change between a start and a resume, and what changed is named; the machine
may, and then the last bits of a result may differ. Knows nothing of epochs or optimizers.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from ecellm_mlx import device
from ecellm_mlx.data import batches, encoding, rows
from ecellm_mlx.errors import DataError, JobError
from ecellm_mlx.jobs import versions
from ecellm_mlx.jobs.directory import Job, config_fingerprint
from ecellm_mlx.models.loading import LoadedModel
from ecellm_mlx.training import checkpoint
from ecellm_mlx.training.recipe import Recipe

SHOWN_IDS = 5
WORDS = {"base": "base model", "train": "training rows", "val": "validation rows"}


def encode(
    path: Path,
    purpose: str,
    base: LoadedModel,
    max_seq_length: int,
    warn: Callable[[str], None],
) -> encoding.EncodedSet:
    """Read and encode a file of rows.

    Args:
        path: the file.
        purpose: ``training`` or ``validation``, for messages.
        base: whose tokenizer and frame are used.
        max_seq_length: the cutoff in tokens.
        warn: hears how many rows lost their whole answer to the cutoff.

    Raises:
        DataError: the file is wrong, or no row has a supervised token left.
    """
    encoded = encoding.encode_rows(rows.load(path), base.tokenizer, base.frame, max_seq_length)
    if encoded.dropped_ids:
        warn(
            f"{len(encoded.dropped_ids)} of the {purpose} rows lose their whole answer to "
            f"max_seq_length={max_seq_length} and are left out: {shown(encoded.dropped_ids)}"
        )
    if not encoded.kept:
        raise DataError(
            f"{path} has no row with a supervised token left",
            cure="raise max_seq_length, or check the rows with `ecellm data check`",
        )
    return encoded


def thin(
    train: encoding.EncodedSet, val: encoding.EncodedSet | None, recipe: Recipe
) -> list[str]:
    """What is too little of these rows to be trained or judged well, in sentences."""
    problems = []
    size = recipe.batch_size
    if len(train.kept) < size:
        problems.append(
            f"the training set has {count(len(train.kept))}, fewer than batch_size={size}, so "
            "that an epoch is one step; add rows or lower batch_size"
        )
    if val is not None and len(val.kept) < size:
        problems.append(
            f"the validation set has {count(len(val.kept))}, fewer than batch_size={size}, so "
            "that its loss says little about which adapter is best; add rows"
        )
    return problems


def count(rows: int) -> str:
    """``1 row``, ``2 rows``."""
    return f"{rows} row{'' if rows == 1 else 's'}"


def validation_batches(
    encoded: encoding.EncodedSet, size: int, pad_id: int
) -> list[batches.Batch]:
    """Batches of ``size`` rows by length; their order never draws from the training seed."""
    order = np.argsort(encoded.lengths, kind="stable").tolist()
    return [
        batches.collate(encoded.kept, order[i : i + size], pad_id)
        for i in range(0, len(order), size)
    ]


def pad_id(base: LoadedModel) -> int:
    """Any id does: padding stands to the right and is never a target."""
    pad = base.tokenizer.pad_token_id
    return 0 if pad is None else int(pad)


def shown(ids: list[str]) -> str:
    """The first few of ``ids``."""
    return ", ".join(ids[:SHOWN_IDS]) + (" …" if len(ids) > SHOWN_IDS else "")


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
