"""Where an adapter's files are; loads no mlx."""

from __future__ import annotations

import json
from pathlib import Path

from ecellm_mlx import workspace
from ecellm_mlx.errors import AdapterError

from converters.names import ADAPTER_CONFIG as CONFIG_FILE
from converters.names import MLX_WEIGHTS as WEIGHTS_FILE

__all__ = ["CONFIG_FILE", "WEIGHTS_FILE", "base_name", "folder_of"]


def folder_of(adapter: str | Path) -> Path:
    """The adapter folder for ``--adapter``: a folder, or a run that holds ``adapter/``.

    A run may be given by its name in the workspace.

    Raises:
        AdapterError: there is no adapter.
    """
    path = Path(adapter)
    named = workspace.current().runs / path
    for folder in (path, path / "adapter", named / "adapter"):
        if (folder / CONFIG_FILE).exists():
            return folder.absolute()
    if (path / "job.json").exists():
        raise AdapterError(f"the run {path} has no adapter yet", cure="let it finish first")
    raise AdapterError(
        f"{path} holds no adapter",
        expected=f"a folder with {CONFIG_FILE}, or a run",
        cure="check --adapter",
    )


def base_name(folder: Path) -> str:
    """The base that an adapter says it was trained on: registry name, hub name or folder.

    A run knows the folder itself, which wins over a name that may mean something else.

    Raises:
        AdapterError: it does not say, or is damaged.
    """
    path = folder / CONFIG_FILE
    try:
        name = json.loads(path.read_text(encoding="utf-8")).get("ecellm", {})
        name = name.get("base", {}).get("name")
    except (OSError, ValueError, AttributeError) as error:
        raise AdapterError(
            f"{path} cannot be used", got=str(error), cure="copy it again"
        ) from None
    for run in (folder.parent, folder.parent.parent):
        try:
            trained_on = json.loads((run / "job.json").read_text(encoding="utf-8"))
            model = Path(trained_on["config"]["model"])
        except (OSError, ValueError, KeyError, TypeError):
            continue
        if (model / "config.json").is_file():
            return str(model)
    if not name:
        raise AdapterError(f"{folder} does not name its base model", cure="give it with --base")
    return str(name)
