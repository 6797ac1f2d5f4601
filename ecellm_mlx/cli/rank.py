"""``ecellm`` as one rank of ``ecellm launch``: the first one reports that all went well.

A verb that runs on several machines ends well on rank 0 only when every rank did its part,
so rank 0 speaks for all.
"""

from __future__ import annotations

import os
import sys

from ecellm_mlx.cli import main

TOKEN = "ECELLM_LAUNCH"


def run() -> None:
    """Run the command line; print the launcher's token if it ended well on rank 0."""
    try:
        main()
    except SystemExit as end:
        if not end.code and os.environ.get("MLX_RANK") == "0":
            sys.stdout.flush()
            sys.stderr.write(f"\n{os.environ[TOKEN]}\n")
            sys.stderr.flush()
        raise


if __name__ == "__main__":
    run()
