"""Gradient checkpointing: trade time for memory.

Each block keeps its input only and runs again on the way back. The output head is
not a block: its logits exist at supervised positions alone, with or without this.
Running again must draw the same dropout: see ``ecellm_mlx.training.dropout``.
"""

from __future__ import annotations

from typing import Any

from ecellm_mlx.device import runtime
from ecellm_mlx.device.backend import mx, nn, tree_flatten, tree_unflatten
from ecellm_mlx.device.cpu.gradients import recomputed


def recompute_blocks(model: nn.Module) -> None:
    """Make every block of ``model`` forget its activations; other models stay as they are.

    Only while training: validation and generation keep nothing anyway.
    """
    for block in model.layers:
        kind = type(block)

        def call(
            self: nn.Module, *args: Any, _forward: Any = kind.__call__, **named: Any
        ) -> mx.array:
            if not self.training:
                return _forward(self, *args, **named)

            if runtime.prepare().on_cpu:
                return _on_host(self, _forward, *args, **named)

            def forward(parameters: Any, *inner: Any, **inner_named: Any) -> mx.array:
                self.update(parameters)
                return _forward(self, *inner, **inner_named)

            return mx.checkpoint(forward)(self.trainable_parameters(), *args, **named)

        # A subclass for this model alone: others of its kind are not touched.
        block.__class__ = type(f"Checkpointed{kind.__name__}", (kind,), {"__call__": call})


def _on_host(block: nn.Module, forward: Any, x: mx.array, *args: Any, **named: Any) -> mx.array:
    """The same where the host computes, which leaves nothing to forget but the inputs."""
    parameters = tree_flatten(block.trainable_parameters())
    names = [name for name, _ in parameters]

    def function(x: mx.array, *arrays: mx.array) -> mx.array:
        block.update(tree_unflatten(list(zip(names, arrays, strict=True))))
        return forward(block, x, *args, **named)

    def restore() -> None:
        block.update(tree_unflatten(parameters))

    return recomputed(function, restore)(x, *(array for _, array in parameters))
