"""The lines of a run's log, newest at the bottom."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable

from textual.app import ComposeResult
from textual.containers import VerticalScroll
from textual.content import Content
from textual.widgets import Static

from tui.history import Level, LogLine
from tui.widgets.facts import MUTED

KEPT_LINES = 300
STYLES: dict[Level, str] = {
    "plain": "",
    "good": "$text-success",
    "warning": "$text-warning",
    "error": "$text-error",
}


class EventLog(VerticalScroll):
    """Follows the end until the user scrolls up."""

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self.lines: deque[LogLine] = deque(maxlen=KEPT_LINES)

    def compose(self) -> ComposeResult:
        """The text."""
        yield Static()

    def add(self, lines: Iterable[LogLine]) -> None:
        """Append ``lines``."""
        following = self.is_vertical_scroll_end
        self.lines.extend(lines)
        self.query_one(Static).update(Content("\n").join(map(_line, self.lines)))
        if following:
            self.call_after_refresh(self.scroll_end, animate=False)

    def clear(self) -> None:
        """Forget all lines."""
        self.lines.clear()
        self.query_one(Static).update("")


def _line(line: LogLine) -> Content:
    clock = time.strftime("%H:%M:%S", time.localtime(line.time))
    return Content.styled(f"{clock} ", MUTED) + Content.styled(line.text, STYLES[line.level])
