"""Where models, datasets and runs live.

One folder per user, moved with ``ECELLM_HOME``. Nothing here is created until
something is written to it.
"""

from __future__ import annotations

import os
import secrets
import time
from dataclasses import dataclass
from pathlib import Path

from ecellm_mlx.files import ensure_folder


@dataclass(frozen=True)
class Workspace:
    """The folders under one home."""

    home: Path

    @property
    def models(self) -> Path:
        """Model folders, one for each registry name."""
        return self.home / "models"

    @property
    def datasets(self) -> Path:
        """Datasets pulled from the hub or imported."""
        return self.home / "datasets"

    @property
    def runs(self) -> Path:
        """Run directories of jobs that were not given ``--out``."""
        return self.home / "runs"

    @property
    def config(self) -> Path:
        """Settings of the faces."""
        return self.home / "config"

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
