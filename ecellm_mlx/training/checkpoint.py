"""Checkpoints: complete on disk or not there at all.

``RUN/checkpoints/<step>/`` holds the adapter in mlx-lm's format, the optimizer
state, the trainer's own numbers and a manifest of checksums. It is written to a
temporary folder, synced and renamed. Dropout needs no state here: its seed is
derived from (seed, step, micro-batch), and so is the order of rows.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ecellm_mlx.backend import mx, nn, optim, tree_flatten, tree_unflatten
from ecellm_mlx.files import ensure_folder, storage_errors, sync_folder, write_json
from ecellm_mlx.models import lora
from ecellm_mlx.training.ranks import Ranks

MANIFEST = "manifest.json"
OPTIMIZER = "optimizer.safetensors"
TRAINER = "trainer.json"


@dataclass
class TrainerState:
    """Where a run stands. ``step`` counts finished optimizer steps."""

    step: int = 0
    best_loss: float | None = None
    best_step: int = 0
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
) -> Path:
    """Write the checkpoint of ``state.step`` under ``folder`` and drop the oldest.

    Args:
        folder: ``RUN/checkpoints``.
        write_adapter: writes the adapter's files into a folder.
        keep: how many checkpoints stay.

    Raises:
        StorageError: the disk is full or cannot be written; older checkpoints stay.
    """
    ensure_folder(folder)
    target = folder / f"{state.step:08d}"
    temporary = folder / f".{target.name}.partial"
    with storage_errors(temporary):
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        try:
            write_adapter(temporary)
            flat = dict(tree_flatten(optimizer.state))
            mx.save_safetensors(str(temporary / OPTIMIZER), flat)
            write_json(temporary / TRAINER, asdict(state))
            files = sorted(p for p in temporary.iterdir() if p.is_file())
            write_json(temporary / MANIFEST, {p.name: _sha256(p) for p in files})
            for path in temporary.iterdir():
                sync_folder(path)
            shutil.rmtree(target, ignore_errors=True)
            temporary.rename(target)
            sync_folder(folder)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
    for old in complete(folder)[:-keep]:
        shutil.rmtree(old, ignore_errors=True)
    return target


def complete(folder: Path) -> list[Path]:
    """Checkpoint folders by step, oldest first."""
    return sorted(p for p in folder.glob("[0-9]*") if (p / MANIFEST).exists())


def newest_valid(folder: Path, warn: Callable[[str], None]) -> Path | None:
    """The newest checkpoint whose checksums hold; ``warn`` hears of those that do not."""
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


def replace_adapter(folder: Path, write_adapter: Callable[[Path], None]) -> None:
    """Write ``folder`` (``RUN/adapter``) anew; the old one stays until the new is whole."""
    temporary = folder.with_name(f".{folder.name}.partial")
    retired = folder.with_name(f".{folder.name}.old")
    with storage_errors(folder):
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        write_adapter(temporary)
        for path in temporary.iterdir():
            sync_folder(path)
        shutil.rmtree(retired, ignore_errors=True)
        with contextlib.suppress(FileNotFoundError):
            folder.rename(retired)
        temporary.rename(folder)
        sync_folder(folder.parent)
        shutil.rmtree(retired, ignore_errors=True)


def _state_from(values: dict[str, Any]) -> TrainerState:
    values["history"] = [tuple(item) for item in values["history"]]
    return TrainerState(**values)


def _damage(path: Path) -> str:
    try:
        manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
        for name, digest in manifest.items():
            if _sha256(path / name) != digest:
                return f"{name} has another checksum"
    except (OSError, ValueError, AttributeError) as error:
        return str(error)
    return ""


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
