"""The process of a job: ``python -m ecellm_mlx.jobs RUN_DIR``."""

from __future__ import annotations

import sys
from pathlib import Path

from ecellm_mlx.jobs import RunDirectory, execute

if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.stderr.write("usage: python -m ecellm_mlx.jobs RUN_DIR\n")
        raise SystemExit(2)
    raise SystemExit(execute(RunDirectory(Path(sys.argv[1]).absolute())))
