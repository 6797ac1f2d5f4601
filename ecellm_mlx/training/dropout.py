"""Dropout whose masks follow from a seed, the layer and the row, not from when they are drawn.

MLX's own dropout draws from one global key. A block that runs again in the backward
pass (gradient checkpointing) would draw other masks than in the forward pass, and its
gradient would be of another function. Here every layer has a key of its own for each
row of each micro-batch, so that masks are the same whenever and in whatever order they
are drawn, and whichever thread or machine computes which rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ecellm_mlx.device.backend import mx, nn
from ecellm_mlx.device.protocol import Batch


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

    def redraw(
        self, keys: mx.array, extent: Extent, targets: tuple[mx.array, mx.array]
    ) -> None:
        """Take the masks of other rows.

        Args:
            keys: (rows, 2), one for each row.
            extent: of the micro-batch that they belong to.
            targets: of each supervised position its row and its number in the row, (N,).
        """
        self._keys, self._extent, self._targets = keys, extent, targets

    @property
    def share(self) -> float:
        """Share of the elements that are kept: 1 while not training."""
        return self._p_1 if self.training else 1.0

    def mask(self, shape: tuple[int, ...]) -> mx.array:
        """The kept elements of an input of this shape, boolean."""
        # (rows, length, features): what a part of the rows is narrower by is cut off, and the
        # n-th target of a row takes the n-th mask of that row.
        if len(shape) == 3:
            return self._drawn(self._extent.length, shape[-1])[:, : shape[1]]
        return self._drawn(self._extent.targets, shape[-1])[self._targets]

    def _drawn(self, length: int, features: int) -> mx.array:
        """(rows, length, features), each row by its own key."""
        return mx.vmap(lambda key: mx.random.bernoulli(self._p_1, (length, features), key=key))(
            self._keys
        )


def attach(model: nn.Module, p: float) -> None:
    """Give every adapter of ``model`` a keyed dropout in place of its own.

    Args:
        model: with adapters attached.
        p: probability of zeroing an element of an adapter's input.
    """
    for _, module in model.named_modules():
        if "lora_a" in module and p:
            module.dropout = KeyedDropout(p)


class AdapterMasks:
    """The masks of all keyed dropouts of one model; see ``device.protocol.Masks``."""

    def __init__(self, model: nn.Module) -> None:
        adapters = [module for _, module in model.named_modules() if "lora_a" in module]
        self._layers = [m.dropout for m in adapters if isinstance(m.dropout, KeyedDropout)]

    def draw(
        self, seed: int, batch: Batch, part: Batch | None = None, rows: Sequence[int] = ()
    ) -> None:
        """New masks for ``batch``, or for those of its ``rows`` that make up ``part``."""
        if not self._layers:
            return
        extent = Extent.of(batch)
        keys = mx.random.split(mx.random.key(seed), len(self._layers) * extent.rows)
        # (layers · rows, 2), layer by layer, as (layers, rows, 2).
        keys = keys.reshape(len(self._layers), extent.rows, -1)
        if part is not None:
            keys = keys[:, mx.array(list(rows))]
        target_rows = (part or batch).target_rows
        # A target is the n-th of its row: rows lie one after the other.
        first = np.searchsorted(target_rows, target_rows)
        nth = np.arange(len(target_rows), dtype=np.int32) - first
        targets = (mx.array(target_rows), mx.array(nth))
        for layer, of_rows in zip(self._layers, keys, strict=True):
            layer.redraw(of_rows, extent, targets)
