"""A progress bar on a terminal, silence in a pipe, plain lines for a program that reads them.

``ECELLM_PROGRESS=lines`` asks for lines such as ``pull 42% of 98.3 MB`` on stderr; the
terminal UI runs its commands so.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Iterator
from typing import Protocol

VARIABLE, LINES = "ECELLM_PROGRESS", "lines"
LINE_INTERVAL_S = 0.5


class Update(Protocol):
    """Takes bytes done, bytes in all, and the stage if it has a name of its own."""

    def __call__(self, done: int, total: int, stage: str = "") -> None:
        """Show that so much is done."""


@contextlib.contextmanager
def byte_bar(what: str) -> Iterator[Update]:
    """Yield a function that is told how far ``what`` is."""
    if os.environ.get(VARIABLE) == LINES:
        yield _Lines(what)
        return
    from rich.console import Console
    from rich.progress import DownloadColumn, Progress, TransferSpeedColumn

    columns = (*Progress.get_default_columns(), DownloadColumn(), TransferSpeedColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task(what, total=None)

        def update(done: int, total: int, stage: str = "") -> None:
            bar.update(task, completed=done, total=total, description=stage or what)

        yield update


class _Lines:
    """Writes a line when the percentage is another one, but not too often."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._last, self._next = -1, 0.0

    def __call__(self, done: int, total: int, stage: str = "") -> None:
        percent = 100 * done // total if total else 0
        now = time.monotonic()
        if percent == self._last or (now < self._next and percent < 100):
            return
        self._last, self._next = percent, now + LINE_INTERVAL_S
        sys.stderr.write(f"{stage or self._what} {percent}% of {total / 1e6:,.1f} MB\n")
        sys.stderr.flush()
