"""Independent parts of one computation, each on a core of its own.

MLX's CPU backend computes products on all cores and everything else on one. Where work
falls into parts that do not need each other, each core can take one of them through
all of it, with products of its own (of several cores, where there are more cores than
parts). Other devices get the work whole.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from typing import TypeVar

from ecellm_mlx.device import runtime

Part = TypeVar("Part")
Found = TypeVar("Found")


class CoreThreads:
    """The calling thread and others, one for each core if sharing them pays.

    Attributes:
        count: how many parts can be computed at once.
    """

    def __init__(self) -> None:
        self.count = runtime.host_threads() if runtime.can_share_cores() else 1
        # One each, since MLX keeps unfinished arrays with the thread that made them.
        self._threads = [
            ThreadPoolExecutor(1, thread_name_prefix=f"core-{number}")
            for number in range(1, self.count)
        ]

    def each(self, parts: Sequence[Part], work: Callable[[int, Part], Found]) -> list[Found]:
        """``work(number, part)`` for every part, the first of them on this thread.

        Args:
            parts: at least one, and at most ``count``.
            work: gets and returns arrays that are computed; what is not could only be
                computed by the thread that made it.
        """
        first, *rest = parts
        with runtime.cores_shared_by(len(parts)):
            others = [
                self._threads[place].submit(work, place + 1, part)
                for place, part in enumerate(rest)
            ]
            try:
                mine = work(0, first)
            finally:
                # Also when this part failed: nothing may run on behind our back.
                wait(others)
        return [mine, *(other.result() for other in others)]
