"""Dropout whose masks follow from a seed, the layer and the row, not from when they are drawn.

MLX's own dropout draws from one global key. A block that runs again in the backward
pass (gradient checkpointing) would draw other masks than in the forward pass, and its
gradient would be of another function. Here every layer has a key of its own for each
row of each micro-batch, so that masks are the same whenever and in whatever order they
are drawn, and whichever thread or machine computes which rows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ecellm_mlx.data.batches import Batch
from ecellm_mlx.device.backend import mx, nn


@dataclass(frozen=True)
class Extent:
    """What a row's mask covers: the same for a micro-batch and for any part of it.

    Attributes:
        rows: of the micro-batch.
        length: its tokens of a row, padding included.
        targets: the most that a row of it has.
    """

    rows: int
    length: int
    targets: int

    @classmethod
    def of(cls, batch: Batch) -> Extent:
        """The extent of a whole micro-batch."""
        most = np.bincount(batch.target_rows, minlength=1).max()
        rows, length = batch.tokens.shape
        return cls(rows, length, int(most))


class KeyedDropout(nn.Dropout):
    """y = x · mask / (1 − p) while training, with the masks of the current rows.

    ``x`` is (rows, T, features), or (N, features) at the supervised positions.
    """

    def __init__(self, p: float) -> None:
        super().__init__(p)
        # Underscored, so that they are no parameters of the model.
        self._keys = mx.random.split(mx.random.key(0), 1)
        self._extent = Extent(1, 1, 1)
        self._targets = (mx.zeros(1, mx.int32), mx.zeros(1, mx.int32))

    def __call__(self, x: mx.array) -> mx.array:
        """Same shape as ``x``."""
        if self._p_1 == 1 or not self.training:
            return x
        return (self.mask(x.shape) * x) * (1 / self._p_1)

    @property
    def share(self) -> float:
        """Share of the elements that are kept: 1 while not training."""
        return self._p_1 if self.training else 1.0

    def mask(self, shape: tuple[int, ...]) -> mx.array:
        """The kept elements of an input of this shape, boolean."""
        if len(shape) == 3:
            return self._drawn(self._extent.length, shape[-1])[:, : shape[1]]
        return self._drawn(self._extent.targets, shape[-1])[self._targets]

    def _drawn(self, length: int, features: int) -> mx.array:
        """(rows, length, features), each row by its own key."""
        return mx.vmap(lambda key: mx.random.bernoulli(self._p_1, (length, features), key=key))(
            self._keys
        )


class AdapterDropout:
    """The dropout of all adapters of a model, which takes its place on construction.

    Args:
        model: with adapters attached.
        p: probability of zeroing an element of an adapter's input.
    """

    def __init__(self, model: nn.Module, p: float) -> None:
        self._layers: list[KeyedDropout] = []
        for _, module in model.named_modules():
            if "lora_a" in module and p:
                module.dropout = KeyedDropout(p)
                self._layers.append(module.dropout)

    def reseed(self, seed: int, part: Batch, extent: Extent) -> None:
        """New masks for the rows of ``part``, which follow from ``seed``.

        Args:
            seed: of the micro-batch.
            part: what is computed next: the micro-batch, or some of its rows.
            extent: of the micro-batch.
        """
        if not self._layers:
            return
        keys = mx.random.split(mx.random.key(seed), len(self._layers) * extent.rows)
        keys = keys.reshape(len(self._layers), extent.rows, -1)[:, mx.array(part.numbers)]
        # A target is the n-th of its row: rows lie one after the other.
        first = np.searchsorted(part.target_rows, part.target_rows)
        nth = np.arange(part.supervised, dtype=np.int32) - first
        targets = (mx.array(part.target_rows), mx.array(nth))
        for layer, of_rows in zip(self._layers, keys, strict=True):
            layer._keys, layer._extent, layer._targets = of_rows, extent, targets
