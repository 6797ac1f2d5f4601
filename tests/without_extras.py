"""A process that cannot import ``device.cpu``, as on a machine of another kind."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

REFUSE = """
import sys

class Refusing:
    def find_spec(self, name, path=None, target=None):
        if name.startswith("ecellm_mlx.device.cpu"):
            raise ModuleNotFoundError(name, name=name)

sys.meta_path.insert(0, Refusing())
from pathlib import Path
"""


def run(code: str, *arguments: Path) -> None:
    """Run ``code``, which finds ``Path`` and ``sys.argv``, and must succeed."""
    command = [sys.executable, "-c", REFUSE + code, *map(str, arguments)]
    # From the root, so that the tests are found, too.
    root = Path(__file__).parents[1]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=root)
    assert done.returncode == 0, done.stdout + done.stderr
