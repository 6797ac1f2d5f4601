"""Independent parts of one computation, each on a core of its own.

MLX's CPU backend computes products on all cores and everything else on one. Where work
falls into parts that do not need each other, each core can take one of them through
all of it, with products of its own (of several cores, where there are more cores than
parts). With a BLAS that cannot be told how many to use, work is computed whole.
"""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from functools import cache
from typing import TypeVar

from ecellm_mlx.device import runtime

THREAD_SETTERS = (
    "MKL_Set_Num_Threads",
    "openblas_set_num_threads",
    "bli_thread_set_num_threads",
)

Part = TypeVar("Part")
Result = TypeVar("Result")


class CoreThreads:
    """The calling thread and others, one for each core if sharing them pays.

    Attributes:
        count: how many parts can be computed at once.
    """

    def __init__(self) -> None:
        self.count = runtime.host_threads() if can_share() else 1
        # One each, since MLX keeps unfinished arrays with the thread that made them.
        self._threads = [
            ThreadPoolExecutor(1, thread_name_prefix=f"core-{number}")
            for number in range(1, self.count)
        ]

    def each(self, parts: Sequence[Part], work: Callable[[int, Part], Result]) -> list[Result]:
        """``work(number, part)`` for every part, the first of them on this thread.

        Args:
            parts: at least one, and at most ``count``.
            work: gets and returns arrays that are computed; what is not could only be
                computed by the thread that made it.
        """
        first, *rest = parts
        with shared_by(len(parts)):
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


@contextlib.contextmanager
def shared_by(callers: int) -> Iterator[None]:
    """While this lasts, a product uses its caller's share of the cores, not all of them."""
    setter = thread_setter()
    if setter is None or callers < 2:
        yield
        return
    setter(max(1, runtime.host_threads() // callers))
    try:
        yield
    finally:
        setter(runtime.host_threads())


def can_share() -> bool:
    """Whether work on several threads pays."""
    return runtime.host_threads() > 1 and thread_setter() is not None


@cache
def thread_setter() -> Callable[[int], object] | None:
    """Sets how many threads a product uses, whoever asks for it; None if the BLAS has none.

    ``threadpoolctl`` limits the calling thread only where the BLAS is MKL, and MLX
    computes on threads of its own.
    """
    blas = runtime.prepare().blas
    if blas.path is None:
        return None
    library = ctypes.CDLL(blas.path)
    for name in THREAD_SETTERS:
        if hasattr(library, name):
            return getattr(library, name)
    return None
