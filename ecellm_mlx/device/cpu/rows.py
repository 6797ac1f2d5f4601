"""The rows of a micro-batch on all cores of the CPU backend.

Rows do not depend on each other, so each core can take some of them through the whole
forward and backward pass (see ``cores``). Gradients are added in the order of the parts:
the same bits in every run on as many cores.

Every thread has a tree of modules of its own, since MLX differentiates a model by
putting traced arrays into its modules; the arrays themselves are shared.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, TypeVar

from ecellm_mlx.device.backend import mx, nn, tree_flatten, tree_map
from ecellm_mlx.device.cpu import parts
from ecellm_mlx.device.cpu.cores import CoreThreads
from ecellm_mlx.device.cpu.head import head_loss
from ecellm_mlx.device.cpu.parts import Part
from ecellm_mlx.device.cpu.replaced import for_training
from ecellm_mlx.device.protocol import Batch, Loss, LossAndGradient, Masks

T = TypeVar("T")


class RowThreads:
    """A model and copies of it that share its arrays, one for each core.

    Attributes:
        models: the model itself first.
    """

    def __init__(self, model: nn.Module) -> None:
        self._cores = CoreThreads()
        self.models = [model, *(replica(model) for _ in range(self._cores.count - 1))]
        self._replaced = for_training(model)

    def each(self, work: Callable[[int, Part], T], batch: Batch, *, training: bool) -> list[T]:
        """``work(number, part)`` for every part of ``batch``, by the model of that number."""
        model, *others = self.models
        parameters = model.trainable_parameters()
        # What is not computed yet could only be computed by this thread.
        mx.eval(parameters)
        for other in others:
            other.update(parameters)
        for each in self.models:
            each.train(training)
        with self._replaced.active():
            return self._cores.each(parts.cut(batch, len(self.models)), work)


def value_and_grad(
    model: nn.Module, loss: Loss, masks: Callable[[nn.Module], Masks]
) -> LossAndGradient:
    """See ``protocol.Device.value_and_grad``."""
    rows = RowThreads(model)
    dropouts = [masks(each) for each in rows.models]
    gradients = [nn.value_and_grad(each, loss) for each in rows.models]

    def compute(batch: Batch, seed: int) -> tuple[mx.array, Any]:
        def of_part(number: int, part: Part) -> tuple[mx.array, Any]:
            dropouts[number].draw(seed, batch, part, part.rows)
            value, gradient = gradients[number](rows.models[number], part, head_loss)
            mx.eval(value, gradient)
            return value, gradient

        (value, gradient), *others = rows.each(of_part, batch, training=True)
        for more, gradient_of_part in others:
            value = value + more
            gradient = tree_map(mx.add, gradient, gradient_of_part)
        return value, gradient

    return compute


def loss_without_dropout(model: nn.Module, loss: Loss) -> Callable[[Batch], mx.array]:
    """See ``protocol.Device.loss``."""
    rows = RowThreads(model)

    def compute(batch: Batch) -> mx.array:
        def of_part(number: int, part: Part) -> mx.array:
            value = loss(rows.models[number], part, head_loss)
            mx.eval(value)
            return value

        return mx.stack(rows.each(of_part, batch, training=False)).sum()

    return compute


def replica(model: nn.Module) -> nn.Module:
    """A second tree of modules like ``model``, with the same parameters."""
    arrays = {id(array): array for _, array in tree_flatten(model.parameters())}
    return copy.deepcopy(model, arrays)
