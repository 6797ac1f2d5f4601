"""What the forms can offer: models, files of rows, adapters. Reads the disk only.

Loads no mlx. Damaged entries are left out or labelled, never raised.
"""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass
from pathlib import Path

from ecellm_mlx import jobs, workspace
from ecellm_mlx.data import json_items
from ecellm_mlx.errors import JobError
from ecellm_mlx.jobs import State
from ecellm_mlx.models import adapter_files

Options = list[tuple[str, str]]
LISTED_RUNS = 200
SPLITS = ("train", "val", "validation", "test")


@dataclass(frozen=True)
class StoredAdapter:
    """An adapter on disk. ``run`` is the run that made it, if one did."""

    name: str
    path: Path
    base: str
    run: str
    kind: str
    size_mb: float
    modified: float

    @property
    def reference(self) -> str:
        """How a command names it: by its run, else by its folder."""
        return str(self.path.parent) if self.run else str(self.path)


def models() -> Options:
    """Installed models as (label, name)."""
    from ecellm_mlx.models import registry

    return [
        (f"{model.name}  ({model.problem or f'{model.size_gb:.1f} GB'})", model.name)
        for model in registry.installed(workspace.current())
    ]


def datasets() -> Options:
    """Folders with training rows as (label, folder); the sample first."""
    from ecellm_mlx import sample

    folders = [
        (folder.name, str(folder))
        for folder in _dataset_folders()
        if any((folder / f"train{suffix}").is_file() for suffix in json_items.SUFFIXES)
    ]
    return [("sample rows that come with ecellm", str(sample.folder())), *folders]


def row_files() -> Options:
    """Files of rows as (label, file)."""
    from ecellm_mlx import sample

    options = []
    folders = [("sample", sample.folder()), *((f.name, f) for f in _dataset_folders())]
    for label, folder in folders:
        for split in SPLITS:
            for suffix in json_items.SUFFIXES:
                if (file := folder / f"{split}{suffix}").is_file():
                    options.append((f"{label}: {split}", str(file)))
    return options


def adapters_folder() -> Path:
    """Where imported adapters go, unless the user says otherwise."""
    return workspace.current().home / "adapters"


def adapters() -> list[StoredAdapter]:
    """Adapters of runs and of the workspace's ``adapters`` folder, newest first."""
    entries = []
    for run in jobs.recent(LISTED_RUNS):
        with contextlib.suppress(JobError):
            if run.job().kind == "train" and (entry := _adapter(run.path / "adapter")):
                entries.append(entry)
    folder = adapters_folder()
    for path in sorted(folder.glob("*")) if folder.is_dir() else ():
        if entry := _adapter(path):
            entries.append(entry)
    return sorted(entries, key=lambda entry: -entry.modified)


def adapter_options() -> Options:
    """Adapters as (label, what a command takes)."""
    return [
        (f"{entry.name}  ({entry.base or 'unknown base'})", entry.reference)
        for entry in adapters()
        if entry.kind == "MLX"
    ]


def finished_runs(kind: str) -> list[Path]:
    """Runs of ``kind`` that have finished, the newest first."""
    runs = []
    for run in jobs.recent(LISTED_RUNS):
        with contextlib.suppress(JobError):
            if run.job().kind == kind and run.status().state is State.FINISHED:
                runs.append(run.path)
    return runs


def _dataset_folders() -> list[Path]:
    folder = workspace.current().datasets
    if not folder.is_dir():
        return []
    kept = [
        path
        for path in folder.iterdir()
        if path.is_dir()
        and any((path / f"{s}{x}").is_file() for s in SPLITS for x in json_items.SUFFIXES)
    ]
    return sorted(kept)


def _adapter(path: Path) -> StoredAdapter | None:
    try:
        config = json.loads((path / adapter_files.CONFIG_FILE).read_text(encoding="utf-8"))
        peft = "peft_type" in config
        base = config.get("base_model_name_or_path") if peft else ""
        own = (config.get("ecellm") or {}).get("base") or {}
        weights = [f for f in path.iterdir() if f.suffix in (".safetensors", ".bin")]
        run = path.name == "adapter" and (path.parent / "job.json").is_file()
        return StoredAdapter(
            name=path.parent.name if run else path.name,
            path=path,
            base=str(own.get("name") or base or ""),
            run=path.parent.name if run else "",
            kind="PEFT" if peft else "MLX",
            size_mb=sum(f.stat().st_size for f in weights) / 1e6,
            modified=(path / adapter_files.CONFIG_FILE).stat().st_mtime,
        )
    except (OSError, ValueError, AttributeError):
        return None
