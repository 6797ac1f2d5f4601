"""Where models, datasets and runs live.

One folder per user, moved with ``ECELLM_HOME``. Nothing here is created until
something is written to it.
"""

from __future__ import annotations

import os
import secrets
import time
from pathlib import Path
from typing import Final

from ecellm_mlx.files import ensure_folder


class Workspace:
    """The folders under one home."""

    def __init__(self, home: Path) -> None:
        self.home: Final = home
        self.models: Final = home / "models"  # model folders, one for each registry name
        self.datasets: Final = home / "datasets"  # pulled from the hub or imported
        self.runs: Final = home / "runs"  # of jobs that were not given ``--out``
        self.config: Final = home / "config"  # settings of the faces

    def new_run(self, kind: str) -> Path:
        """Create a run directory with a sortable name that is not taken."""
        ensure_folder(self.runs)
        while True:
            stamp = time.strftime("%Y%m%d-%H%M%S")
            path = self.runs / f"{kind}-{stamp}-{secrets.token_hex(2)}"
            if not path.exists():
                return ensure_folder(path)


def current() -> Workspace:
    """The workspace of this user: ``ECELLM_HOME``, else the platform's data folder."""
    if home := os.environ.get("ECELLM_HOME"):
        return Workspace(Path(home).expanduser().absolute())
    from platformdirs import user_data_path

    return Workspace(user_data_path("ecellm-mlx", appauthor=False))
