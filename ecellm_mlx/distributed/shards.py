"""One job over several hosts, as ``mlx.launch`` starts it.

Each rank answers every ``size``-th chunk of the plan into a journal of its own. At the end
all answers are exchanged, so that every journal is complete and rank 0 can write the table
alone, whether or not the hosts share a disk. Chunks are the same for any number of ranks,
and so are batches and answers.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ecellm_mlx.distributed.launched import launched_rank
from ecellm_mlx.errors import JobError

if TYPE_CHECKING:
    from ecellm_mlx.distributed.ranks import Ranks

DONE, STOPPED, FAILED = "done", "stopped", "failed: "
RESUME = (
    "every rank's answers are in its journal: start the same command again with --resume, "
    "on any number of hosts"
)


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

    @contextlib.contextmanager
    def reporting(self) -> Iterator[None]:
        """Tell the other ranks, when they are done with their parts, that this one failed.

        The sentence is printed at once: the others may work for hours yet, and keep what
        they compute.
        """
        try:
            yield
        except Exception as error:
            if self.group is not None:
                text = str(error) or type(error).__name__
                sys.stderr.write(f"rank {self.rank} of {self.size} failed: {text}\n")
                self._texts(FAILED + text.rstrip("."))
            raise

    def all_done(self, done: bool) -> bool:
        """Whether every rank has done its part; waits for all of them.

        Raises:
            JobError: a rank failed, or is gone.
        """
        if self.group is None:
            return done
        said = self._texts(DONE if done else STOPPED)
        for rank, text in enumerate(said):
            if text.startswith(FAILED):
                raise JobError(
                    f"rank {rank} of {self.size} failed, so its part of the answers is missing "
                    f"and no table was written: {text.removeprefix(FAILED)}",
                    cure=RESUME,
                )
        return all(text == DONE for text in said)

    def exchange(self, blocks: Iterator[str], take: Callable[[str], None]) -> None:
        """Give every rank the blocks of all ranks.

        Args:
            blocks: this rank's texts, none of them empty.
            take: called with every rank's blocks, its own included.
        """
        if self.group is None:
            return
        while any(received := self._texts(next(blocks, ""))):
            for text in filter(None, received):
                take(text)

    def _texts(self, text: str) -> list[str]:
        """The text of every rank."""
        assert self.group is not None
        try:
            return self.group.texts(text)
        except JobError as error:
            raise JobError(
                f"rank {self.rank} of {self.size} lost the others, so their part of the "
                "answers is missing and no table was written",
                got=error.got,
                cure=RESUME,
            ) from None


def join() -> Shard:
    """Join the group of ranks; one alone where ``mlx.launch`` did not start us.

    Raises:
        JobError: the other ranks cannot be reached.
    """
    if launched_rank() is None:
        return Shard()
    from ecellm_mlx.distributed import ranks

    group = ranks.current()
    return Shard(group.rank, group.size, group)
