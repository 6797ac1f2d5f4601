"""Checkpoints: complete on disk or not there at all.

``RUN/checkpoints/<step>/`` holds the adapter in mlx-lm's format, the optimizer
state, the trainer's own numbers, the conditions it was computed under and a manifest
of checksums. It is written to a temporary folder, synced and renamed; the folders
that a crash leaves behind have hidden names and are cleared by the next save. Dropout
needs no state here: its seed is derived from (seed, step, micro-batch), and so is the
order of rows.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ecellm_mlx.device.backend import mx, nn, optim, tree_flatten, tree_unflatten
from ecellm_mlx.distributed.ranks import Ranks
from ecellm_mlx.files import (
    ensure_folder,
    hidden,
    put_back,
    replaced_folder,
    storage_errors,
    sync_folder,
    write_json,
)
from ecellm_mlx.models import lora
from ecellm_mlx.models.adapter_files import CONFIG_FILE, WEIGHTS_FILE

MANIFEST = "manifest.json"
OPTIMIZER = "optimizer.safetensors"
TRAINER = "trainer.json"
CONDITIONS = "conditions.json"


@dataclass
class TrainerState:
    """Where a run stands. ``step`` counts finished optimizer steps.

    ``validated_step`` is the last step whose validation is part of this state: a run
    that was stopped within a validation does it again.
    """

    step: int = 0
    best_loss: float | None = None
    best_step: int = 0
    validated_step: int = 0
    validations_without_gain: int = 0
    skipped_steps: int = 0
    skipped_in_a_row: int = 0
    supervised_tokens: int = 0
    last_loss: float | None = None
    history: list[tuple[int, float | None]] = field(default_factory=list)


def save(
    folder: Path,
    state: TrainerState,
    optimizer: optim.Optimizer,
    write_adapter: Callable[[Path], None],
    keep: int,
    conditions: dict[str, str] | None = None,
) -> Path:
    """Write the checkpoint of ``state.step`` under ``folder`` and drop the oldest.

    Args:
        folder: ``RUN/checkpoints``.
        write_adapter: writes the adapter's files into a folder.
        keep: how many checkpoints stay.
        conditions: what else decides the bits of a result (``device.conditions``).

    Raises:
        DiskFullError: no space; older checkpoints stay, and a later call may succeed.
        StorageError: it cannot be written.
    """
    if not folder.is_dir():
        ensure_folder(folder)
        sync_folder(folder.parent)
    target = folder / f"{state.step:08d}"

    _clear_leftovers(folder)
    with replaced_folder(target) as temporary:
        write_adapter(temporary)
        flat = dict(tree_flatten(optimizer.state))
        mx.save_safetensors(str(temporary / OPTIMIZER), flat)
        write_json(temporary / TRAINER, asdict(state))
        write_json(temporary / CONDITIONS, conditions or {})
        files = sorted(p for p in temporary.iterdir() if p.is_file())
        write_json(temporary / MANIFEST, {p.name: _sha256(p) for p in files})
    for old in complete(folder)[:-keep]:
        _discard(old)
    return target


def complete(folder: Path) -> list[Path]:
    """Checkpoint folders by step, oldest first."""
    return sorted(p for p in folder.glob("[0-9]*") if (p / MANIFEST).exists())


def newest_valid(folder: Path, warn: Callable[[str], None]) -> Path | None:
    """The newest checkpoint whose checksums hold; ``warn`` hears of those that do not."""
    _put_back(folder)
    for path in reversed(complete(folder)):
        if problem := _damage(path):
            warn(f"checkpoint {path.name} is damaged ({problem}); using the one before")
        else:
            return path
    return None


def restore(path: Path, model: nn.Module, optimizer: optim.Optimizer) -> TrainerState:
    """Load a checkpoint into a model with its adapter attached.

    Raises:
        AdapterError: the checkpoint is of another adapter.
    """
    lora.restore(model, path)
    state = mx.load(str(path / OPTIMIZER))
    assert isinstance(state, dict)
    optimizer.state = tree_unflatten(list(state.items()))
    mx.eval(model.parameters(), optimizer.state)
    return _state_from(json.loads((path / TRAINER).read_text(encoding="utf-8")))


def share(
    state: TrainerState, model: nn.Module, optimizer: optim.Optimizer, group: Ranks
) -> TrainerState:
    """Give the leader's adapter, optimizer and numbers to all ranks."""
    model.update(group.copy_from_leader(model.trainable_parameters()))
    optimizer.state = group.copy_from_leader(optimizer.state)
    mx.eval(model.parameters(), optimizer.state)
    return _state_from(json.loads(group.texts(json.dumps(asdict(state)))[0]))


def changed_conditions(path: Path, now: dict[str, str]) -> list[str]:
    """What differs between the conditions of a checkpoint and ``now``, in words."""
    then: dict[str, str] = json.loads((path / CONDITIONS).read_text(encoding="utf-8"))
    return [
        f"{name} {then.get(name, 'none')} → {now.get(name, 'none')}"
        for name in sorted({*then, *now})
        if then.get(name) != now.get(name)
    ]


def recipe_of(path: Path) -> dict[str, Any]:
    """The recipe that a checkpoint was trained with, or nothing where it cannot be read."""
    try:
        config = json.loads((path / CONFIG_FILE).read_text(encoding="utf-8"))
        return dict(config["ecellm"]["recipe"])
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def replace_adapter(folder: Path, write_adapter: Callable[[Path], None]) -> None:
    """Write ``folder`` (``RUN/adapter``) anew; the old one stays until the new is whole.

    Raises:
        DiskFullError: no space; the old one stays.
    """
    with replaced_folder(folder) as temporary:
        write_adapter(temporary)


def recover_adapter(folder: Path) -> None:
    """Put the old ``folder`` back, if a process was killed between two renames."""
    put_back(folder)


def _put_back(folder: Path) -> None:
    """Undo the first of two renames, where a process was killed before the second."""
    for retired in folder.glob(".[0-9]*.old"):
        put_back(folder / retired.name.split(".")[1])


def _clear_leftovers(folder: Path) -> None:
    _put_back(folder)
    for path in folder.glob(".[0-9]*.*"):
        shutil.rmtree(path, ignore_errors=True)


def _discard(path: Path) -> None:
    """Delete a checkpoint such that half of it is never taken for one."""
    doomed = hidden(path, "dead")
    with storage_errors(path):
        path.rename(doomed)
    shutil.rmtree(doomed, ignore_errors=True)


def _state_from(values: dict[str, Any]) -> TrainerState:
    values["history"] = [tuple(item) for item in values["history"]]
    return TrainerState(**values)


def _damage(path: Path) -> str:
    try:
        manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
        if missing := {WEIGHTS_FILE, OPTIMIZER, TRAINER, CONDITIONS} - manifest.keys():
            return f"the manifest lacks {', '.join(sorted(missing))}"
        for name, digest in manifest.items():
            if _sha256(path / name) != digest:
                return f"{name} has another checksum"
    except FileNotFoundError as error:
        return f"{Path(error.filename).name} is missing"
    except OSError as error:
        return str(error)
    except (ValueError, AttributeError):
        return f"{MANIFEST} is no manifest"
    return ""


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
