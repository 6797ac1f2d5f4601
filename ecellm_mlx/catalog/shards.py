"""One job over several hosts, as ``mlx.launch`` starts it.

Each rank answers every ``size``-th chunk of the plan into a journal of its own. At the end
all answers are exchanged, so that every journal is complete and rank 0 can write the table
alone, whether or not the hosts share a disk. Chunks are the same for any number of ranks,
and so are batches and answers.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from ecellm_mlx.catalog.journal import Entry, Journal

if TYPE_CHECKING:
    from ecellm_mlx.training.ranks import Ranks

# As in ``training.ranks``, which loads mlx.
RANK_VARIABLES = ("MLX_RANK", "OMPI_COMM_WORLD_RANK")
BLOCK_ENTRIES = 2048


def launched_rank() -> int | None:
    """This process's rank if ``mlx.launch`` started it; loads no mlx."""
    for name in RANK_VARIABLES:
        if (value := os.environ.get(name, "")).isdigit():
            return int(value)
    return None


def journal_path(out: Path, rank: int | None = None) -> Path:
    """The journal of an output file; ranks after the first have their own."""
    part = f".rank{rank}" if rank else ""
    return out.with_name(f"{out.name}{part}.journal.sqlite")


@dataclass(frozen=True)
class Shard:
    """This process's part of a job: every ``size``-th chunk, starting with ``rank``."""

    rank: int = 0
    size: int = 1
    group: Ranks | None = None

    def owns(self, chunk: int) -> bool:
        """Whether this rank answers a chunk."""
        return chunk % self.size == self.rank

    def all_done(self, done: bool) -> bool:
        """Whether every rank has done its part; waits for all of them."""
        if self.group is None:
            return done
        return all(self.group.texts("done" if done else ""))

    def exchange(self, journal: Journal) -> None:
        """Give every rank the answers of all others."""
        if self.group is None:
            return
        # Read to its end first: the loop below adds to the same table.
        mine = iter([entry.key for entry in journal.all_entries()])
        while True:
            block = journal.entries(list(islice(mine, BLOCK_ENTRIES)))
            received = self.group.texts(_pack(block.values()))
            found = [entry for text in received for entry in _unpack(text)]
            if not found:
                return
            journal.add(found)


def join() -> Shard:
    """Join the group of ranks; one alone where ``mlx.launch`` did not start us.

    Raises:
        JobError: the other ranks cannot be reached.
    """
    if launched_rank() is None:
        return Shard()
    from ecellm_mlx.training import ranks

    group = ranks.current()
    return Shard(group.rank, group.size, group)


def _pack(entries: Iterable[Entry]) -> str:
    return json.dumps(
        [[e.key.hex(), e.answer, e.confidence, e.error, e.origin] for e in entries]
    )


def _unpack(text: str) -> list[Entry]:
    return [
        Entry(bytes.fromhex(key), answer, confidence, error, origin)
        for key, answer, confidence, error, origin in json.loads(text)
    ]
