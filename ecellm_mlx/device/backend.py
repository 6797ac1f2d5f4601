"""The one door to MLX: the engine imports mlx and mlx-lm's parts from here.

Importing this module loads a fast BLAS first where the device is the Linux CPU
backend (``ecellm_mlx.device.runtime``); a linter rule keeps other modules from
importing mlx by themselves.
"""

from __future__ import annotations

from ecellm_mlx.device import runtime

RUNTIME = runtime.prepare()

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
from mlx.utils import tree_flatten, tree_map, tree_unflatten


def scalar(array: mx.array) -> float:
    """The value of a real array of one element; mlx types it as possibly complex."""
    value = array.item()
    assert not isinstance(value, complex)
    return value


__all__ = [
    "RUNTIME",
    "mx",
    "nn",
    "optim",
    "scalar",
    "tree_flatten",
    "tree_map",
    "tree_unflatten",
]
