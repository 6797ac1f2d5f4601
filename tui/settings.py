"""What the app remembers between two sessions: one JSON file in the workspace."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from ecellm_mlx import workspace
from ecellm_mlx.errors import StorageError
from ecellm_mlx.files import ensure_folder, write_json

DEFAULT_THEME = "textual-dark"


@dataclass(frozen=True)
class Settings:
    """Choices of the user that are no property of a run.

    ``seen`` holds the places that were visited, comma separated.
    """

    theme: str = DEFAULT_THEME
    seen: str = ""


def settings_file() -> Path:
    """Where the settings are kept."""
    return workspace.current().config / "tui.json"


def load() -> Settings:
    """The saved settings; the defaults when nothing was saved.

    Raises:
        StorageError: the file is there and cannot be used.
    """
    path = settings_file()
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        known = {f.name: str(value.get(f.name, f.default)) for f in fields(Settings)}
    except FileNotFoundError:
        return Settings()
    except (OSError, ValueError, AttributeError) as error:
        raise StorageError(
            f"{path}: the settings cannot be read, so the defaults are used",
            got=str(error),
            cure="choose a theme to write them anew",
        ) from None
    return Settings(**known)


def save(settings: Settings) -> None:
    """Write the settings.

    Raises:
        StorageError: the folder cannot be written.
    """
    ensure_folder(settings_file().parent)
    write_json(settings_file(), asdict(settings))
