"""The processes that train one adapter together, and what they tell each other.

``mlx.launch`` starts a process (rank) per machine. All ranks follow one plan: rank r
computes the micro-batches r, r + n, r + 2n, … of each step, whose numbers decide about
dropout, and sums go over all of them. So a run is the same run, but for the rounding
of sums, on any number of machines. A run without ``mlx.launch`` is one of one rank.

Only sums are exchanged. What one rank alone knows (an order, a text, the tensors of a
checkpoint) is summed with the zeros of the others, byte by byte, which is exact.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any, TypeVar

import numpy as np

from ecellm_mlx.device.backend import mx, tree_flatten, tree_unflatten
from ecellm_mlx.distributed.launched import launched
from ecellm_mlx.errors import JobError

T = TypeVar("T")


@cache
def current() -> Ranks:
    """The ranks that this process belongs to; connects to the others at first use.

    Raises:
        JobError: the others cannot be reached.
    """
    if not launched():
        return Ranks(None)
    try:
        return Ranks(mx.distributed.init())
    except RuntimeError as error:
        raise JobError(
            "the other machines cannot be reached",
            got=" ".join(str(error).split()),
            cure="check the hosts and ports that were given to mlx.launch",
        ) from None


class Ranks:
    """A group of processes; ``Ranks(None)`` is this process alone."""

    def __init__(self, group: Any) -> None:
        self._group = group
        self.rank: int = group.rank() if group else 0
        self.size: int = group.size() if group else 1

    @property
    def leader(self) -> bool:
        """Whether this rank writes the run directory and takes the orders."""
        return self.rank == 0

    def share(self, items: Sequence[T]) -> list[tuple[int, T]]:
        """This rank's part of ``items``, each with its place among all."""
        return list(enumerate(items))[self.rank :: self.size]

    def sum(self, tree: Any) -> Any:
        """The arrays of ``tree`` summed over all ranks, in one message.

        All ranks get the same bits. float32 in and out.

        Raises:
            JobError: another rank is gone.
        """
        if self.size == 1:
            return tree
        names, arrays = zip(*_by_name(tree), strict=True)
        ends = np.cumsum([array.size for array in arrays]).tolist()
        flat = self._all_sum(mx.concatenate([array.reshape(-1) for array in arrays]))
        parts = mx.split(flat, ends[:-1])
        return tree_unflatten(
            [
                (name, part.reshape(array.shape))
                for name, part, array in zip(names, parts, arrays, strict=True)
            ]
        )

    def highest(self, value: int) -> int:
        """The largest of the ranks' non-negative values."""
        return max(self._gather_ints(value))

    def copy_from_leader(self, tree: Any) -> Any:
        """The leader's arrays, bit for bit, on every rank."""
        if self.size == 1:
            return tree
        copied = []
        for name, array in _by_name(tree):
            # At least one dimension, which a view of another width needs.
            words = array.reshape(-1).view(mx.uint8)
            total = self._all_sum(words if self.leader else mx.zeros_like(words))
            copied.append((name, total.view(array.dtype).reshape(array.shape)))
        return tree_unflatten(copied)

    def texts(self, text: str) -> list[str]:
        """The text of every rank, in their order."""
        data = text.encode()
        lengths = self._gather_ints(len(data))
        table = np.zeros((self.size, max(*lengths, 1)), np.uint8)
        table[self.rank, : len(data)] = np.frombuffer(data, np.uint8)
        table = np.array(self._all_sum(mx.array(table)))
        return [table[i, :n].tobytes().decode() for i, n in enumerate(lengths)]

    def raise_together(self, error: Exception | None) -> None:
        """End all ranks when one has an error, each with the first one's sentence.

        Raises:
            Exception: ``error`` itself, where this rank is the first that has one.
            JobError: another rank has one.
        """
        texts = self.texts("" if error is None else str(error) or "it was stopped")
        failed = [rank for rank, text in enumerate(texts) if text]
        if not failed:
            return
        if error is not None and failed[0] == self.rank:
            raise error
        raise JobError(f"rank {failed[0]} cannot start: {texts[failed[0]].rstrip('.')}")

    def _gather_ints(self, value: int) -> list[int]:
        mine = np.zeros(self.size, np.int32)
        mine[self.rank] = value
        return np.array(self._all_sum(mx.array(mine))).tolist()

    def _all_sum(self, array: mx.array) -> mx.array:
        if self.size == 1:
            return array
        try:
            total = mx.distributed.all_sum(array, group=self._group)
            mx.eval(total)
        except RuntimeError as error:
            raise JobError(
                "the connection to another rank was lost",
                got=" ".join(str(error).split()),
                cure="start all of them again with `ecellm resume` under mlx.launch",
            ) from None
        return total


def _by_name(tree: Any) -> list[tuple[str, mx.array]]:
    """All arrays in an order that is the same on every rank, whatever that of the tree."""
    return sorted(tree_flatten(tree), key=lambda item: item[0])
