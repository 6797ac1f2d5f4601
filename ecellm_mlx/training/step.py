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

from ecellm_mlx import device
from ecellm_mlx.data.batches import Batch
from ecellm_mlx.device.backend import mx, nn, optim, scalar, tree_flatten, tree_map
from ecellm_mlx.distributed import ranks
from ecellm_mlx.training import dropout, schedule
from ecellm_mlx.training.loss import negative_log_likelihood
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

    Attributes:
        loss: summed loss of a batch without dropout.

    Args:
        model: its trainable parameters are updated in place, and its dropout becomes
            reproducible.
        recipe: rates, clipping, weighting and seed.
        total_steps: length of the schedule.
        group: the ranks that share the micro-batches of each step.
    """

    def __init__(
        self, model: nn.Module, recipe: Recipe, total_steps: int, group: ranks.Ranks
    ) -> None:
        self.model = model
        self.recipe = recipe
        self.total_steps = total_steps
        self.group = group
        self.optimizer = optim.AdamW(
            learning_rate=recipe.learning_rate,
            betas=[0.9, 0.999],
            eps=1e-8,
            weight_decay=recipe.weight_decay,
            bias_correction=True,
        )
        self.optimizer.init(model.trainable_parameters())
        dropout.attach(model, recipe.dropout)
        compute = device.current()
        self.loss = compute.loss(model, negative_log_likelihood)
        self._gradient = compute.value_and_grad(
            model, negative_log_likelihood, dropout.AdapterMasks
        )

    def __call__(self, step: int, micro_batches: Sequence[Batch]) -> StepResult:
        """Do step number ``step`` (from 0). A step that is not finite changes nothing."""
        weights = self._weights(micro_batches)
        losses = np.zeros(len(micro_batches), np.float32)
        gradients = tree_map(mx.zeros_like, self.model.trainable_parameters())
        for index, batch in self.group.share(micro_batches):
            value, gradient = self._micro_batch(step, index, batch)
            weight = weights[index]
            gradients = tree_map(lambda g, d, w=weight: g + w * d, gradients, gradient)
            mx.eval(gradients)
            losses[index] = scalar(value)
        gradients, every_loss = self.group.sum([gradients, mx.array(losses)])
        gradients, norm = optim.clip_grad_norm(gradients, self.recipe.clip_norm or math.inf)
        # Added up in double precision, in the plan's order: the same on any number of ranks.
        total = sum(w * v for w, v in zip(weights, np.array(every_loss).tolist(), strict=True))
        result = StepResult(total, scalar(norm), self.rate(step))
        if not result.finite:
            culprits = self._culprits(step, micro_batches)
            return StepResult(total, result.grad_norm, result.learning_rate, culprits)
        self.optimizer.learning_rate = result.learning_rate
        self.optimizer.update(self.model, gradients)
        mx.eval(self.model.trainable_parameters(), self.optimizer.state)
        return result

    def rate(self, step: int) -> float:
        """Learning rate of step number ``step`` (from 0)."""
        return self.recipe.learning_rate * schedule.factor(
            self.recipe.schedule, step, self.total_steps, self.recipe.warmup_ratio
        )

    def _weights(self, micro_batches: Sequence[Batch]) -> list[float]:
        """The weight of each micro-batch's summed loss in that of the step."""
        if self.recipe.loss_weighting == "token":
            supervised = sum(batch.supervised for batch in micro_batches)
            return [1 / supervised] * len(micro_batches)
        return [1 / (batch.supervised * len(micro_batches)) for batch in micro_batches]

    def _micro_batch(self, step: int, index: int, batch: Batch) -> tuple[mx.array, Any]:
        """Summed loss and its gradient. Dropout follows from (seed, step, index) alone."""
        return self._gradient(batch, fold(self.recipe.seed, step, index))

    def _culprits(self, step: int, micro_batches: Sequence[Batch]) -> tuple[int, ...]:
        """The micro-batches that are not finite by themselves, found by doing them again."""
        broken = np.zeros(len(micro_batches), np.float32)
        for index, batch in self.group.share(micro_batches):
            value, gradient = self._micro_batch(step, index, batch)
            sums = [mx.abs(g).sum() for _, g in tree_flatten(gradient)]
            finite = math.isfinite(scalar(mx.stack([mx.abs(value), *sums]).sum()))
            broken[index] = not finite
        every = self.group.sum([mx.array(broken)])[0]
        return tuple(np.flatnonzero(np.array(every)).tolist())


def fold(*numbers: int) -> int:
    """One 64-bit seed from several numbers."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0])
