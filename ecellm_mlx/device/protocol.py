"""What every device does for the rooms above, and what they tell it.

A training step and a decode loop read as their maths; the device supplies how. Training
hands in its loss and its dropout, inference its model's caches; no device knows either
room. Loads no mlx.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from ecellm_mlx.device.traits import Traits

if TYPE_CHECKING:
    from ecellm_mlx.device.backend import mx, nn


class UnsuitedError(Exception):
    """A model computes its attention in a way that this kind of pass does not serve."""


class Batch(Protocol):
    """B rows of at most T tokens, with N supervised positions.

    Attributes:
        tokens: (B, T) int32, padded on the right.
        target_rows: (N,) int32, the row of each target, rising.
        target_positions: (N,) int32, where in the row its logits are read.
        target_ids: (N,) int32, the token to predict there.
    """

    @property
    def tokens(self) -> NDArray[np.int32]: ...
    @property
    def target_rows(self) -> NDArray[np.int32]: ...
    @property
    def target_positions(self) -> NDArray[np.int32]: ...
    @property
    def target_ids(self) -> NDArray[np.int32]: ...


class Head(Protocol):
    """A model's output layer as a function: hidden states (N, hidden) to logits (N, vocab)."""

    @property
    def layer(self) -> nn.Module:
        """The module that holds its weights."""

    def __call__(self, hidden: mx.array, /) -> mx.array: ...


# Summed cross-entropy of what a head makes of (N, hidden) states, given (N,) target ids.
HeadLoss = Callable[[Head, "mx.array", "mx.array"], "mx.array"]


class Loss(Protocol):
    """The loss of a batch, summed over its targets: a scalar, float32.

    A device that has a head loss of its own hands it in; the loss's is used when not given.
    """

    def __call__(
        self, model: nn.Module, batch: Batch, head_loss: HeadLoss = ..., /
    ) -> mx.array: ...


class Masks(Protocol):
    """The dropout masks of one model's adapters, which follow from a seed and the row."""

    def draw(
        self, seed: int, batch: Batch, part: Batch | None = None, rows: Sequence[int] = ()
    ) -> None:
        """New masks for what is computed next.

        Args:
            seed: of the micro-batch.
            batch: the whole micro-batch.
            part: some of its rows, where not all of them are computed at once.
            rows: which ones, in the order of ``part``.
        """


class KeyedMask(Protocol):
    """A dropout layer whose mask can be read: ``device.cpu`` applies it by itself."""

    @property
    def share(self) -> float:
        """Share of the elements that are kept: 1 while not training."""

    def mask(self, shape: tuple[int, ...]) -> mx.array:
        """The kept elements of an input of this shape, boolean."""


@dataclass(frozen=True)
class Span:
    """``count`` tokens of ``row`` that a pass reads, one after the other, at ``start``.

    Places count all tokens of the pass in order, batch by batch. ``last`` says that the
    row has no more to read.
    """

    row: int
    start: int
    count: int
    last: bool

    @property
    def end(self) -> int:
        """The place behind its last token."""
        return self.start + self.count


@dataclass(frozen=True)
class Pass:
    """One call of the model: its tokens (B, T), int32, its cache, and whose they are."""

    tokens: NDArray[np.int32]
    layers: Sequence[Any]
    spans: Sequence[Span]


class RowCache(Protocol):
    """Keys and values of some rows, which go on by tokens of their own.

    Attributes:
        lengths: (B,) int32, tokens of each row.
    """

    lengths: NDArray[np.int32]

    def passes(self, continuations: Sequence[Sequence[int]], cores: int) -> list[list[Pass]]:
        """How to feed each row its tokens; the cache takes them as fed.

        Args:
            continuations: the tokens of each row; at least one row has some.
            cores: how many lists are wanted, at most.

        Returns:
            Lists of passes that do not need each other; the passes of a list follow
            each other.
        """

    def select(self, rows: Sequence[int]) -> Self:
        """A cache of these rows; one may appear more than once. This one stays as it is."""

    def joined(self, others: Sequence[Self]) -> Self:
        """This one's rows and those of others as one cache, which takes their place."""


class Forward(Protocol):
    """One way to run a model's forward passes over rows of different lengths.

    Attributes:
        cores: how many lists of passes are computed at once.
    """

    @property
    def cores(self) -> int: ...

    def cache(self, rows: int) -> RowCache:
        """The cache of ``rows`` rows that have read nothing yet."""

    def width(self, counts: Sequence[int]) -> int:
        """Tokens that rows had best read at once, at most; row i has ``counts[i]`` to read."""

    def run(
        self, passes: Sequence[Sequence[Pass]], read: Callable[[Sequence[Pass]], None]
    ) -> None:
        """``read`` every list of passes, at most ``cores`` of them, in any order.

        Where there are several, each may be read on a thread of its own, so ``read`` must
        compute what it keeps.
        """


# Loss and gradient of a micro-batch, given the seed of its dropout: a scalar, float32, and
# a tree like the trainable parameters'.
LossAndGradient = Callable[[Batch, int], tuple["mx.array", Any]]


class Device(Protocol):
    """What computes in this process."""

    @property
    def traits(self) -> Traits:
        """How it computes, for plans."""

    def prepare(self, model: nn.Module, warn: Callable[[str], None]) -> None:
        """Make a model that was just loaded ready to compute here: its dtype, its layers.

        Args:
            model: changed in place; its weights may still be on disk.
            warn: receives one sentence where the result is slower than a user may expect.
        """

    def value_and_grad(
        self, model: nn.Module, loss: Loss, masks: Callable[[nn.Module], Masks]
    ) -> LossAndGradient:
        """The loss of micro-batches and its gradient, while ``model`` trains.

        Args:
            model: with adapters and their dropout attached, and prepared for recomputation
                or not.
            loss: what is differentiated.
            masks: finds the dropout of a model, be it this one or a copy of it.
        """

    def loss(self, model: nn.Module, loss: Loss) -> Callable[[Batch], mx.array]:
        """The loss of batches without dropout: a scalar, float32."""

    def recomputed(self, forward: Callable[..., mx.array]) -> Callable[..., mx.array]:
        """A block's call ``forward(block, x, …)`` that keeps its input only.

        It runs again on the way back. The block's parameters are those that it has when it
        is called.
        """

    def forwards(self, model: nn.Module, layers: int) -> list[Forward]:
        """Ways to run the forward passes of ``model``, the best first.

        Whether a model is suited to one of them is found by trying: it raises
        ``UnsuitedError`` or computes something else.

        Args:
            model: read only.
            layers: how many keep keys and values.
        """
