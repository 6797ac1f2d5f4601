"""Gradient checkpointing: trade time for memory.

Each block keeps its input only and runs again on the way back. The output head is
not a block: its logits exist at supervised positions alone, with or without this.
Running again must draw the same dropout: see ``ecellm_mlx.training.dropout``.
"""

from __future__ import annotations

from typing import Any

from ecellm_mlx import device
from ecellm_mlx.device.backend import mx, nn


def recompute_blocks(model: nn.Module) -> None:
    """Make every block of ``model`` forget its activations; other models stay as they are.

    Only while training: validation and generation keep nothing anyway.
    """
    for block in model.layers:
        kind = type(block)
        again = device.current().recomputed(kind.__call__)

        def call(
            self: nn.Module,
            *args: Any,
            _once: Any = kind.__call__,
            _again: Any = again,
            **named: Any,
        ) -> mx.array:
            return (_again if self.training else _once)(self, *args, **named)

        # A subclass for this model alone: others of its kind are not touched.
        block.__class__ = type(f"Checkpointed{kind.__name__}", (kind,), {"__call__": call})
