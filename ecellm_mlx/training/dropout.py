"""Dropout whose masks follow from a seed and the layer, not from when they are drawn.

MLX's own dropout draws from one global key. A block that runs again in the backward
pass (gradient checkpointing) would draw other masks than in the forward pass, and its
gradient would be of another function. Here every layer has a key of its own for each
micro-batch, so that masks are the same whenever and in whatever order they are drawn.
"""

from __future__ import annotations

from ecellm_mlx.backend import mx, nn


class KeyedDropout(nn.Dropout):
    """y = x · mask / (1 − p) while training, with the mask of the current key."""

    def __init__(self, p: float) -> None:
        super().__init__(p)
        # Underscored, so that it is no parameter of the model.
        self._key = mx.random.key(0)

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
        """The kept elements of the current key, boolean."""
        return mx.random.bernoulli(self._p_1, shape, key=self._key)


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

    def reseed(self, seed: int) -> None:
        """New masks for every layer, which follow from ``seed``."""
        if self._layers:
            keys = mx.random.split(mx.random.key(seed), len(self._layers))
            for layer, key in zip(self._layers, keys, strict=True):
                layer._key = key
