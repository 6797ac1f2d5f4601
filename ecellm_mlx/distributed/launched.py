"""Whether ``mlx.launch`` started this process; loads no mlx."""

from __future__ import annotations

import os

# What mlx.launch (ring, jaccl, nccl) and Open MPI set in each process they start.
RANK_VARIABLES = ("MLX_RANK", "OMPI_COMM_WORLD_RANK")


def launched() -> bool:
    """Whether ``mlx.launch`` started this process, alone or with others."""
    return any(name in os.environ for name in RANK_VARIABLES)


def launched_rank() -> int | None:
    """This process's rank if ``mlx.launch`` started it."""
    for name in RANK_VARIABLES:
        if (value := os.environ.get(name, "")).isdigit():
            return int(value)
    return None
