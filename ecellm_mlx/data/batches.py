"""Which rows are computed together, and in what order.

A plan is a list of optimizer steps; a step is a list of micro-batches; a
micro-batch is a list of row indices. It follows from (seed, epoch) alone, so that a
position in it is all a checkpoint needs. Knows only lengths, never rows or models.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ecellm_mlx.data.encoding import Encoded

T = TypeVar("T")
Plan = list[list[list[int]]]
ORDERS = ("bucketed", "shuffled")


@dataclass(frozen=True)
class Batch:
    """A micro-batch of B rows, padded on the right to T, with its N supervised positions.

    A position is supervised if the loss is about what its logits say of the next token,
    which is its target.

    Attributes:
        tokens: (B, T) int32.
        target_rows: (N,) int32, the row of each target.
        target_positions: (N,) int32, where in the row its logits are read.
        target_ids: (N,) int32, the token to predict there: the one at the next position.
        real_tokens: how many of the B·T tokens are no padding.
    """

    tokens: NDArray[np.int32]
    target_rows: NDArray[np.int32]
    target_positions: NDArray[np.int32]
    target_ids: NDArray[np.int32]
    real_tokens: int

    @property
    def supervised(self) -> int:
        """N, the number of targets."""
        return len(self.target_ids)


def plan(
    lengths: Sequence[int],
    *,
    micro_batch_size: int,
    batch_size: int,
    epoch: int,
    seed: int,
    order: str = "bucketed",
) -> Plan:
    """Every row once: steps of ``batch_size`` rows in micro-batches.

    Args:
        lengths: tokens of each row.
        micro_batch_size: rows computed at once; one micro-batch of an epoch may be smaller.
        batch_size: rows of one step, a multiple of ``micro_batch_size``; the last step
            may be smaller.
        epoch: which pass over the rows; each has its own order.
        seed: seed of all orders.
        order: ``bucketed`` puts rows of similar length into a micro-batch and shuffles
            the micro-batches; ``shuffled`` is a plain permutation.

    Raises:
        ValueError: sizes or the order are not as above.
    """
    if micro_batch_size < 1 or batch_size < 1 or batch_size % micro_batch_size:
        raise ValueError(
            f"batch_size {batch_size} is no positive multiple of {micro_batch_size} rows"
        )
    if order not in ORDERS:
        raise ValueError(f"order {order!r} is none of {', '.join(ORDERS)}")
    rng = np.random.default_rng(np.random.SeedSequence([seed, epoch]))
    rows = rng.permutation(len(lengths))
    if order == "bucketed":
        # A stable sort keeps rows of equal length in the random order they came in.
        rows = rows[np.argsort(np.asarray(lengths, dtype=np.int64)[rows], kind="stable")]
    micro_batches = _cut(rows.tolist(), micro_batch_size)
    if order == "bucketed":
        micro_batches = [micro_batches[i] for i in rng.permutation(len(micro_batches))]
    return _cut(micro_batches, batch_size // micro_batch_size)


def _cut(items: list[T], size: int) -> list[list[T]]:
    return [items[start : start + size] for start in range(0, len(items), size)]


def padding_share(steps: Plan, lengths: Sequence[int]) -> float:
    """Padding's share of all computed tokens, 0 to 1."""
    micro_batches = [rows for step in steps for rows in step]
    computed = sum(len(rows) * max(lengths[i] for i in rows) for rows in micro_batches)
    real = sum(lengths[i] for rows in micro_batches for i in rows)
    return 1 - real / computed if computed else 0.0


def collate(encoded: Sequence[Encoded], indices: Sequence[int], pad_id: int) -> Batch:
    """The rows ``indices`` of ``encoded`` as one batch; padding is never a target."""
    rows = [encoded[i] for i in indices]
    width = max(len(row.tokens) for row in rows)
    tokens = np.full((len(rows), width), pad_id, dtype=np.int32)
    for number, row in enumerate(rows):
        tokens[number, : len(row.tokens)] = row.tokens
    spans = [np.asarray(row.target_positions, dtype=np.int32) for row in rows]
    target_rows = np.repeat(np.arange(len(rows), dtype=np.int32), [len(span) for span in spans])
    target_positions = np.concatenate(spans)
    return Batch(
        tokens=tokens,
        target_rows=target_rows,
        target_positions=target_positions,
        target_ids=tokens[target_rows, target_positions + 1],
        real_tokens=sum(len(row.tokens) for row in rows),
    )
