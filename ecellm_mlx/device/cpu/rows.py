"""The rows of a micro-batch on all cores of the CPU backend.

Rows do not depend on each other, so each core can take some of them through the whole
forward and backward pass (see ``cores``). Gradients are added in the order of
the parts: the same bits in every run on as many cores.

Every thread has a tree of modules of its own, since MLX differentiates a model by
putting traced arrays into its modules; the arrays themselves are shared.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from ecellm_mlx.data.batches import Batch
from ecellm_mlx.device.backend import mx, nn, tree_flatten, tree_map
from ecellm_mlx.device.cpu import replaced
from ecellm_mlx.device.cpu.cores import CoreThreads
from ecellm_mlx.training import loss
from ecellm_mlx.training.dropout import AdapterDropout, Extent


class RowThreads:
    """Losses and gradients of micro-batches; the model's dropout becomes reproducible.

    Args:
        model: with its adapter attached, and prepared for recomputation or not.
        dropout: probability of the adapters' dropout.
    """

    def __init__(self, model: nn.Module, dropout: float = 0.0) -> None:
        self._cores = CoreThreads()
        self._models = [model, *(replica(model) for _ in range(self._cores.count - 1))]
        self._dropouts = [AdapterDropout(each, dropout) for each in self._models]
        self._gradients = [
            nn.value_and_grad(each, loss.negative_log_likelihood) for each in self._models
        ]
        self._host = replaced.for_training(model)

    def loss_and_gradient(self, batch: Batch, seed: int) -> tuple[mx.array, Any]:
        """Summed loss (scalar, float32) and its gradient, a tree like the parameters'.

        Dropout follows from ``seed`` and each row's number in the batch.
        """
        extent = Extent.of(batch)

        def part(number: int, rows: Batch) -> tuple[mx.array, Any]:
            self._dropouts[number].reseed(seed, rows, extent)
            found = self._gradients[number](self._models[number], rows)
            mx.eval(found)
            return found

        (value, gradient), *others = self._each(part, batch, training=True)
        for more, gradients in others:
            value, gradient = value + more, tree_map(mx.add, gradient, gradients)
        return value, gradient

    def loss(self, batch: Batch) -> mx.array:
        """Summed loss without dropout. Shape: scalar, float32."""

        def part(number: int, rows: Batch) -> mx.array:
            value = loss.negative_log_likelihood(self._models[number], rows)
            mx.eval(value)
            return value

        return mx.stack(self._each(part, batch, training=False)).sum()

    def _each(
        self, work: Callable[[int, Batch], Any], batch: Batch, *, training: bool
    ) -> list[Any]:
        """``work`` on every part of ``batch``."""
        model, *others = self._models
        parameters = model.trainable_parameters()
        # What is not computed yet could only be computed by this thread.
        mx.eval(parameters)
        for other in others:
            other.update(parameters)
        for each in self._models:
            each.train(training)
        with self._host.active():
            return self._cores.each(batch.parts(len(self._models)), work)


def replica(model: nn.Module) -> nn.Module:
    """A second tree of modules like ``model``, with the same parameters."""
    arrays = {id(array): array for _, array in tree_flatten(model.parameters())}
    return copy.deepcopy(model, arrays)
