"""One job over several hosts, as ``mlx.launch`` starts it.

Each rank answers every ``size``-th chunk of the plan into a journal of its own. At the end
all answers are exchanged, so that every journal is complete and rank 0 can write the table
alone, whether or not the hosts share a disk. Chunks are the same for any number of ranks,
and so are batches and answers.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from ecellm_mlx.catalog.journal import Entry, Journal
from ecellm_mlx.errors import JobError

# What mlx.launch sets for its backends (ring, JACCL, NCCL), and what MPI sets.
RANK_VARIABLES = ("MLX_RANK", "OMPI_COMM_WORLD_RANK", "PMI_RANK")
BLOCK_ENTRIES = 4096


@dataclass(frozen=True)
class Shard:
    """This process's part of a job: every ``size``-th chunk, starting with ``rank``."""

    rank: int = 0
    size: int = 1

    def owns(self, chunk: int) -> bool:
        """Whether this rank answers a chunk."""
        return chunk % self.size == self.rank


def launched_rank() -> int | None:
    """This process's rank if ``mlx.launch`` started it; loads no mlx."""
    for name in RANK_VARIABLES:
        if (value := os.environ.get(name, "")).isdigit():
            return int(value)
    return None


def join() -> Shard:
    """Join the group of ranks.

    Raises:
        JobError: the other ranks cannot be reached.
    """
    rank = launched_rank()
    if rank is None:
        return Shard()
    from ecellm_mlx.backend import mx

    try:
        group = mx.distributed.init(strict=True)
    except RuntimeError as error:
        raise JobError(
            f"rank {rank} cannot reach the others", got=str(error), cure="see mlx.launch --help"
        ) from None
    return Shard(group.rank(), group.size())


def journal_path(out: Path, rank: int | None = None) -> Path:
    """The journal of an output file; ranks after the first have their own."""
    part = f".rank{rank}" if rank else ""
    return out.with_name(f"{out.name}{part}.journal.sqlite")


def all_done(shard: Shard, done: bool) -> bool:
    """Whether every rank has done its part; waits for all of them."""
    if shard.size == 1:
        return done
    from ecellm_mlx.backend import mx

    ready = _on_cpu(mx.distributed.all_sum, np.array([int(done)], np.int32))
    return int(ready[0]) == shard.size


def exchange(shard: Shard, journal: Journal) -> None:
    """Give every rank the answers of all others."""
    if shard.size == 1:
        return
    entries = journal.all_entries()
    while True:
        block = list(islice(entries, BLOCK_ENTRIES))
        received = _gather(shard, _pack(block))
        found = [entry for part in received for entry in _unpack(part)]
        if not found:
            return
        journal.add(found)


def _gather(shard: Shard, data: bytes) -> Iterator[bytes]:
    """Every rank's bytes, in order of rank."""
    from ecellm_mlx.backend import mx

    gather = mx.distributed.all_gather
    lengths = _on_cpu(gather, np.array([len(data)], np.int32)).tolist()
    padded = np.zeros((1, max(lengths)), np.uint8)
    padded[0, : len(data)] = np.frombuffer(data, np.uint8)
    parts = _on_cpu(gather, padded)
    for rank in range(shard.size):
        yield parts[rank, : lengths[rank]].tobytes()


def _on_cpu(operation: Any, value: np.ndarray) -> np.ndarray:
    """A collective operation; they run on the CPU stream only."""
    from ecellm_mlx.backend import mx

    return np.array(operation(mx.array(value), stream=mx.cpu))


def _pack(entries: Sequence[Entry]) -> bytes:
    return json.dumps(
        [[e.key.hex(), e.answer, e.confidence, e.error, e.origin] for e in entries]
    ).encode()


def _unpack(data: bytes) -> list[Entry]:
    return [
        Entry(bytes.fromhex(key), answer, confidence, error, origin)
        for key, answer, confidence, error, origin in json.loads(data)
    ]
