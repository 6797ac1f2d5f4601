"""Follow a run directory: everything that is new since the last look.

Reads files, so it belongs in a worker thread. Whatever happens to the directory
(deleted, damaged, unreadable) comes back as a sentence, not as an exception.
"""

from __future__ import annotations

import time
from dataclasses import replace

from ecellm_mlx.errors import JobError
from ecellm_mlx.jobs import RunDirectory, State
from tui.history import LogLine, RunHistory, RunView

LOG_TAIL_LINES = 6
LOG_TAIL_BYTES = 16_384


class Follower:
    """Tails one run. The first ``look`` tells the whole story so far."""

    def __init__(self, run: RunDirectory) -> None:
        self.run = run
        self._reader = run.reader()
        self._history: RunHistory | None = None
        self._told_crash = False
        self._last = RunView()

    def look(self) -> tuple[RunView, list[LogLine]]:
        """The picture of the run now, and the new lines for its log."""
        lines: list[LogLine] = []
        try:
            self._last = self._read(lines)
        except (JobError, OSError, TypeError, ValueError) as error:
            problem = f"{self.run.path} cannot be read: {error}"
            if isinstance(error, JobError):
                problem = str(error)
            if not self.run.path.is_dir():
                problem = (
                    f"{self.run.path} is gone: the folder of this run was moved or deleted. "
                    "What was read before is still shown."
                )
            self._last = replace(self._last, problem=problem, pending="")
        return self._last, lines

    def _read(self, lines: list[LogLine]) -> RunView:
        kind = self.run.job().kind
        history = self._history = self._history or RunHistory(kind)
        # The status first: when it says that a run has ended, all its events are written.
        status = self.run.status()
        for event in self._reader.read():
            if line := history.apply(event):
                lines.append(line)
        if status.state is not State.FAILED:
            self._told_crash = False
        elif not self._told_crash:
            self._told_crash = True
            if not history.failure:
                lines += self._log_tail()
        pending = ""
        if self.run.control_file.exists():
            pending = self.run.control_file.read_text(encoding="utf-8", errors="replace")
        return history.view(status, pending=pending.strip()[:20])

    def _log_tail(self) -> list[LogLine]:
        """The last words of a process that ended without an event."""
        if not self.run.log_file.exists():
            return []
        with self.run.log_file.open("rb") as stream:
            stream.seek(max(0, self.run.log_file.stat().st_size - LOG_TAIL_BYTES))
            text = stream.read().decode("utf-8", errors="replace")
        words = [line.rstrip() for line in text.splitlines() if line.strip()]
        return [
            LogLine(time.time(), f"job.log: {line}", "error")
            for line in words[-LOG_TAIL_LINES:]
        ]
