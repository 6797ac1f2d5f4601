"""A command of the screen: the line, how far it is, what it says and how it ended."""

from __future__ import annotations

import re
import time

from textual.app import ComposeResult
from textual.containers import Vertical
from textual.content import Content
from textual.widgets import ProgressBar, Static

from tui.child import CommandRun, abort_note
from tui.history import LogLine
from tui.widgets.event_log import EventLog

PROGRESS = re.compile(r"([\w ]+) (\d{1,3})% of [\d.,]+ MB")  # as ecellm_mlx.cli.progress
SHOWN_OUTPUT = 60  # lines of stdout that are shown at the end


class Activity(Vertical):
    """Shows one ``CommandRun``, the latest; hidden until there is one."""

    def __init__(self, *, id: str = "activity") -> None:
        super().__init__(id=id, classes="pane")
        self.border_title = "Command"
        self.border_subtitle = "^x end it"

    def compose(self) -> ComposeResult:
        """Line, bar, log."""
        yield Static(id="activity-line", markup=False)
        yield ProgressBar(id="activity-bar", show_eta=False)
        yield EventLog()

    def begin(self, run: CommandRun) -> None:
        """Show a new command."""
        self.add_class("-shown")
        self.query_one(EventLog).clear()
        self.query_one(ProgressBar).display = False
        self._state("▶ running", "$text-accent", run)

    def say(self, run: CommandRun, text: str) -> None:
        """A line of its narration; one of progress moves the bar and stays beside it."""
        if not (match := PROGRESS.fullmatch(text.strip())):
            self._add(text)
            return
        bar = self.query_one(ProgressBar)
        bar.display = True
        bar.update(total=100, progress=min(100, int(match[2])))
        self._state(f"▶ {text.strip()}", "$text-accent", run)

    def end(self, run: CommandRun) -> None:
        """Say how it ended and what it printed."""
        for text in run.output.rstrip().splitlines()[:SHOWN_OUTPUT]:
            self._add(text)
        self.query_one(ProgressBar).display = False
        if run.code == 0:
            self._state("✓ done", "$text-success", run)
        elif run.ended_by_user:
            self._state("■ ended", "$text-warning", run)
        else:
            note = abort_note(run.code)
            self._state(f"✗ failed{note}", "$text-error", run)

    def _state(self, word: str, style: str, run: CommandRun) -> None:
        took = "" if run.running else f" in {time.monotonic() - run.began:.0f} s"
        text = Content.styled(f"{word}{took}", f"bold {style}") + Content(f"  {run.line}")
        self.query_one("#activity-line", Static).update(text)

    def _add(self, text: str) -> None:
        if text.strip():
            self.query_one(EventLog).add([LogLine(time.time(), text)])
