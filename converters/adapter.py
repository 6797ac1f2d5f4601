"""An adapter in neither format: what its numbers are, whatever file they came from.

Equation of a module: y = W x + scale · (x a) b, with a of shape (in, r) and b of
shape (r, out); for an embedding a is (vocabulary, r) and x is one-hot. DoRA
divides the row norm of the sum away and puts m in its place.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import mlx.core as mx

# Ends of the names of an adapter's tensors in mlx-lm.
LEAVES = ("lora_a", "lora_b", "m")


@dataclass(frozen=True)
class Shape:
    """Of one module: its rank, and the factor on a·b with the alpha that it came from."""

    rank: int
    scale: float
    alpha: float | None = None


@dataclass(frozen=True)
class LoraModule:
    """The update of one layer.

    Attributes:
        a: (in, r), or (vocabulary, r) for an embedding.
        b: (r, out).
        scale: the factor on a·b.
        alpha: PEFT's lora_alpha, if it is known; it gives exactly ``scale``.
        m: DoRA's magnitude, (out,).
    """

    a: mx.array
    b: mx.array
    scale: float
    alpha: float | None = None
    m: mx.array | None = None

    @property
    def rank(self) -> int:
        """Columns of a."""
        return self.a.shape[1]

    @property
    def shape(self) -> Shape:
        """Its rank, scale and alpha."""
        return Shape(self.rank, self.scale, self.alpha)

    @property
    def tensors(self) -> dict[str, mx.array]:
        """Its tensors by mlx-lm's names for them."""
        named = zip(LEAVES, (self.a, self.b, self.m), strict=True)
        return {leaf: array for leaf, array in named if array is not None}

    @property
    def parameters(self) -> int:
        """Numbers in all its tensors."""
        return sum(array.size for array in self.tensors.values())


@dataclass(frozen=True)
class Adapter:
    """All modules of an adapter by path, in model order, and what holds for all of them.

    Attributes:
        modules: path of the layer → its update.
        dropout: probability while training.
        rslora: whether alpha is divided by √r instead of r.
        ecellm: our own section of ``adapter_config.json``.
    """

    modules: Mapping[str, LoraModule]
    dropout: float = 0.0
    rslora: bool = False
    ecellm: dict[str, Any] = field(default_factory=dict)

    @property
    def dora(self) -> bool:
        """Whether the modules carry magnitudes."""
        return any(module.m is not None for module in self.modules.values())

    @property
    def parameters(self) -> int:
        """Numbers in all tensors."""
        return sum(module.parameters for module in self.modules.values())


def divisor(rank: int, rslora: bool) -> float:
    """What alpha is divided by: r, or √r with rank stabilization (arXiv 2312.03732)."""
    return math.sqrt(rank) if rslora else float(rank)


def alpha_of(module: LoraModule, rslora: bool) -> float:
    """The lora_alpha that gives this module's scale.

    The recorded one if it still does. Otherwise scale · divisor, or one of its
    neighbours if rounding needs that; division does not reach every float, and then
    the result is one unit in the last place off.
    """
    by = divisor(module.rank, rslora)
    product = module.scale * by
    candidates = [
        product,
        round(product),
        math.nextafter(product, math.inf),
        math.nextafter(product, -math.inf),
    ]
    if module.alpha is not None:
        candidates.insert(0, module.alpha)
    exact = [value for value in candidates if value / by == module.scale]
    alpha = float(exact[0] if exact else product)
    return int(alpha) if alpha.is_integer() else alpha
