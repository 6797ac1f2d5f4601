"""Where an adapter's files are; loads no mlx."""

from __future__ import annotations

from pathlib import Path

from ecellm_mlx.errors import AdapterError

WEIGHTS_FILE = "adapters.safetensors"
CONFIG_FILE = "adapter_config.json"


def folder_of(adapter: str | Path) -> Path:
    """The adapter folder for ``--adapter``: a folder, or a run that holds ``adapter/``.

    Raises:
        AdapterError: there is no adapter.
    """
    path = Path(adapter)
    for folder in (path, path / "adapter"):
        if (folder / CONFIG_FILE).exists():
            return folder.absolute()
    if (path / "job.json").exists():
        raise AdapterError(f"the run {path} has no adapter yet", cure="let it finish first")
    raise AdapterError(
        f"{path} holds no adapter",
        expected=f"a folder with {CONFIG_FILE}, or a run",
        cure="check --adapter",
    )
