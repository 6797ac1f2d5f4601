"""One optimizer step: gradients of its micro-batches, clipping, AdamW.

A step's loss is Σ weight · nll over its micro-batches, where nll is summed over the
supervised tokens of a micro-batch. ``token`` weighs by 1 / supervised tokens of the
step; ``microbatch`` averages each micro-batch first and then the averages, as the
paper's trainer did. AdamW is PyTorch's: bias correction on, decay decoupled. Knows
nothing of runs, files or the order of rows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ecellm_mlx.backend import mx, nn, optim, scalar, tree_map
from ecellm_mlx.data.batches import Batch
from ecellm_mlx.training import loss, schedule
from ecellm_mlx.training.recipe import Recipe


@dataclass(frozen=True)
class StepResult:
    """What one step did.

    Attributes:
        loss: mean over the step, weighted as the recipe says.
        grad_norm: global norm before clipping.
        learning_rate: the rate of this step.
        culprits: indices of the micro-batches whose loss or gradient is not finite.
    """

    loss: float
    grad_norm: float
    learning_rate: float
    culprits: tuple[int, ...] = ()

    @property
    def finite(self) -> bool:
        """Whether the update was applied."""
        return math.isfinite(self.loss) and math.isfinite(self.grad_norm)


class OptimizerStep:
    """Applies steps to a model whose adapter is attached; owns the optimizer.

    Args:
        model: its trainable parameters are updated in place.
        recipe: rates, clipping, weighting and seed.
        total_steps: length of the schedule.
    """

    def __init__(self, model: nn.Module, recipe: Recipe, total_steps: int) -> None:
        self.model = model
        self.recipe = recipe
        self.total_steps = total_steps
        self.optimizer = optim.AdamW(
            learning_rate=recipe.learning_rate,
            betas=[0.9, 0.999],
            eps=1e-8,
            weight_decay=recipe.weight_decay,
            bias_correction=True,
        )
        self.optimizer.init(model.trainable_parameters())
        self._loss_and_grad = nn.value_and_grad(model, loss.negative_log_likelihood)

    def __call__(self, step: int, micro_batches: Sequence[Batch]) -> StepResult:
        """Do step number ``step`` (from 0). A step that is not finite changes nothing."""
        self.model.train()
        supervised = sum(batch.supervised for batch in micro_batches)
        total = mx.array(0.0)
        gradients: Any = None
        culprits: list[int] = []
        for index, batch in enumerate(micro_batches):
            # Dropout follows from (seed, step, micro-batch), so a resumed run repeats it.
            mx.random.seed(fold(self.recipe.seed, step, index))
            value, gradient = self._loss_and_grad(self.model, batch)
            weight = 1 / (
                supervised
                if self.recipe.loss_weighting == "token"
                else batch.supervised * len(micro_batches)
            )
            total = total + value * weight
            gradient = tree_map(lambda g, w=weight: g * w, gradient)
            gradients = gradient if gradients is None else tree_map(mx.add, gradients, gradient)
            mx.eval(total, gradients, value)
            if not math.isfinite(scalar(value)):
                culprits.append(index)
        gradients, norm = optim.clip_grad_norm(gradients, self.recipe.clip_norm or math.inf)
        result = StepResult(scalar(total), scalar(norm), self.rate(step), tuple(culprits))
        if result.finite:
            self.optimizer.learning_rate = result.learning_rate
            self.optimizer.update(self.model, gradients)
            mx.eval(self.model.trainable_parameters(), self.optimizer.state)
        return result

    def rate(self, step: int) -> float:
        """Learning rate of step number ``step`` (from 0)."""
        return self.recipe.learning_rate * schedule.factor(
            self.recipe.schedule, step, self.total_steps, self.recipe.warmup_ratio
        )


def fold(*numbers: int) -> int:
    """One 64-bit seed from several numbers."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0])
