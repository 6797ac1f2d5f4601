"""The Textual app: places to go, jobs that it started, and leaving without harm.

Jobs are processes of their own (``ecellm_mlx.jobs``): the app starts them, asks
them for things through their run directories, and may end at any time.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar
from weakref import WeakKeyDictionary

from textual import on, work
from textual.app import App, SystemCommand
from textual.binding import Binding
from textual.events import DescendantFocus
from textual.screen import Screen
from textual.widget import Widget

from ecellm_mlx.errors import EcellmError, JobError, UsageError
from ecellm_mlx.jobs import Control, RunDirectory
from tui import child, quick, runs, settings
from tui.commands import KeyCommands, PlaceCommands
from tui.messages import (
    JobResumed,
    JobStarted,
    LiveRunsRead,
    PlaceWanted,
    RunChosen,
    StopsRequested,
)
from tui.places import HELP_KEY, PLACES
from tui.quick import QuickApp
from tui.screens.base import PlaceScreen
from tui.screens.help import HelpScreen
from tui.screens.jump import JumpScreen, targets
from tui.screens.quit import Answer, QuitDialog
from tui.screens.run import RunScreen
from tui.themes import THEMES
from tui.widgets.nav import NavItem

REAP_INTERVAL_S = 1.0
READING_S = 3.0  # a command of another place waits so long for what it is about


class EcellmApp(QuickApp):
    """Fine-tune e-commerce models and watch the jobs."""

    TITLE = "ecellm"
    CSS_PATH = "app.tcss"
    HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (100, "-wide")]
    VERTICAL_BREAKPOINTS = [(0, "-short"), (18, "-tall")]
    SCREENS = {place.mode: place.opener() for place in PLACES}
    MODES = {place.mode: place.mode for place in PLACES}
    DEFAULT_MODE = "home"
    COMMANDS: ClassVar[set[Any]] = App.COMMANDS | {KeyCommands, PlaceCommands}
    BINDINGS = [
        # The line at the top shows these already.
        Binding(HELP_KEY, "help", "Help", False, id="app.help"),
        *(
            Binding(
                place.key, f"go('{place.mode}')", place.title, False, id=f"app.{place.mode}"
            )
            for place in PLACES
        ),
        Binding("ctrl+o", "jump", "Jump", id="app.jump", tooltip="Go to a field by a letter"),
        Binding("ctrl+q", "quit", "Quit", priority=True, id="app.quit"),
    ]

    def __init__(self, *, own_process: bool = False) -> None:
        super().__init__(own_process=own_process)
        for theme in THEMES:
            self.register_theme(theme)
        self.children_started: list[subprocess.Popen[bytes]] = []
        self._saved = settings.Settings()
        self._lit: WeakKeyDictionary[Screen[Any], Widget] = WeakKeyDictionary()

    def on_mount(self) -> None:
        """Take up the saved theme and look after the processes that were started."""
        try:
            self._saved = settings.load()
        except EcellmError as error:
            self.complain(str(error))
        if self._saved.theme in self.available_themes:
            self.theme = self._saved.theme
        self.theme_changed_signal.subscribe(self, lambda theme: self._theme_chosen(theme.name))
        self.set_interval(REAP_INTERVAL_S, self._reap)

    def on_unmount(self) -> None:
        """Wait for no child: what is under way here can be done again."""
        child.end_all()

    def on_descendant_focus(self, event: DescendantFocus) -> None:
        """Mark the pane that the focus is in."""
        panes = (node for node in event.widget.ancestors if node.has_class("pane"))
        pane = next((node for node in panes if isinstance(node, Widget)), None)
        before = self._lit.pop(event.widget.screen, None)
        if pane is not None:
            self._lit[event.widget.screen] = pane
        for node, lit in ((before, False), (pane, True)) if pane is not before else ():
            if node is not None and node.is_attached:
                # Only its border changes; what is in it needs no new styles.
                node.set_class(lit, "-lit", update=False)
                self.stylesheet.update_nodes([node])

    def complain(self, sentence: str) -> None:
        """Show an error that belongs to no field."""
        self.notify(sentence, severity="error", timeout=10, markup=False)

    def copy_to_clipboard(self, text: str) -> None:
        """Copy by the terminal's escape sequence and, on a Mac, with ``pbcopy``."""
        super().copy_to_clipboard(text)
        # Apple's Terminal ignores the escape sequence.
        if program := shutil.which("pbcopy"):
            self._pipe(program, text)

    def get_system_commands(self, screen: Screen[Any]) -> Iterable[SystemCommand]:
        """The app's own commands; our bindings offer help and leaving already."""
        for command in super().get_system_commands(screen):
            if command.title not in ("Keys", "Quit"):
                yield command

    def action_go(self, mode: str) -> None:
        """Go to a place, leaving whatever is open on top of it."""
        # Nothing is awaited: a click on a screen that is left would wait for itself.
        while len(self.screen_stack) > 1:
            self.pop_screen()
        self.show_place(mode)
        self._remember(mode)

    def action_help(self) -> None:
        """Explain the screen and its keys."""
        if not isinstance(self.screen, HelpScreen):
            self.push_screen(HelpScreen(self.screen))

    def action_jump(self) -> None:
        """Put a letter on everything that can be focused, and go where one is pressed."""
        if isinstance(self.screen, JumpScreen):
            return
        below = self.screen

        async def chosen(widget: Widget | None) -> None:
            if isinstance(widget, NavItem):
                self.action_go(widget.place.mode)
            elif widget is not None:
                below.set_focus(widget)

        self.push_screen(JumpScreen(targets(below)), chosen)

    async def action_quit(self) -> None:
        """Leave; with live jobs or commands, ask what is to become of them."""
        if not isinstance(self.screen, QuitDialog):
            self._find_live_runs()

    @on(JobStarted)
    def _job_started(self, event: JobStarted) -> None:
        self.children_started.append(event.process)
        self.push_screen(RunScreen(event.run))

    @on(JobResumed)
    def _job_resumed(self, event: JobResumed) -> None:
        self.children_started.append(event.process)

    @on(RunChosen)
    def _run_chosen(self, event: RunChosen) -> None:
        self.push_screen(RunScreen(RunDirectory(event.path)))

    @on(PlaceWanted)
    def _place_wanted(self, event: PlaceWanted) -> None:
        self.action_go(event.mode)
        # The screen may be new, and is filled in once it stands.
        self.call_after_refresh(self._fill_in, event.values, event.action)

    @on(LiveRunsRead)
    def _live_runs_read(self, event: LiveRunsRead) -> None:
        if isinstance(self.screen, QuitDialog):
            return
        commands = child.under_way()
        if not event.runs and not commands:
            self.exit()
            return

        def answered(answer: Answer | None) -> None:
            if answer == "keep":
                names = ", ".join(run.name for run in event.runs)
                watch = f"still running: {names}; open ecellm again to watch"
                self.exit(message=watch if names else None)
            elif answer == "stop":
                self._stop_runs([run.path for run in event.runs])

        self.push_screen(QuitDialog(event.runs, [run.line for run in commands]), answered)

    @on(StopsRequested)
    def _stops_requested(self, event: StopsRequested) -> None:
        if event.problems:
            self.complain(" ".join(event.problems))
        else:
            self.exit(message="asked the running jobs to save a checkpoint and stop")

    @work(thread=True, exclusive=True, group="quit")
    def _find_live_runs(self) -> None:
        try:
            live = runs.live()
        except OSError as error:
            # Nothing can be asked of jobs that cannot be read.
            self.call_from_thread(self.exit, message=f"the runs cannot be read: {error}")
            return
        self.post_message(LiveRunsRead(live))

    @work(thread=True, group="quit")
    def _stop_runs(self, paths: list[Path]) -> None:
        problems = []
        for path in paths:
            run = RunDirectory(path)
            try:
                run.request(Control.STOP)
            except JobError as error:
                if run.status().state.live:
                    problems.append(str(error))
            except EcellmError as error:
                problems.append(str(error))
        self.post_message(StopsRequested(problems))

    @work(thread=True, exclusive=True, group="settings")
    def _save_settings(self, wanted: settings.Settings) -> None:
        try:
            settings.save(wanted)
        except EcellmError as error:
            self.call_from_thread(self.complain, str(error))

    @work(thread=True, group="clipboard")
    def _pipe(self, program: str, text: str) -> None:
        subprocess.run([program], input=text.encode(), check=False)

    def _theme_chosen(self, theme: str) -> None:
        if theme != self._saved.theme:
            self._saved = replace(self._saved, theme=theme)
            self._save_settings(self._saved)

    @property
    def seen(self) -> list[str]:
        """Places that were visited, in this session or an earlier one."""
        return [mode for mode in self._saved.seen.split(",") if mode]

    def _remember(self, mode: str) -> None:
        if mode not in self.seen:
            self._saved = replace(self._saved, seen=",".join([*self.seen, mode]))
            self._save_settings(self._saved)

    def _fill_in(self, values: dict[str, str], action: str) -> None:
        if isinstance(self.screen, PlaceScreen):
            self.screen.preset(values)
        if action:
            self._act_there(self.screen, action)

    @work(exclusive=True, group="act")
    async def _act_there(self, screen: Screen[Any], action: str) -> None:
        """Run an action of ``screen`` once its list has been read, or else without it."""

        def reading() -> bool:
            if isinstance(screen, PlaceScreen) and not screen.looked:
                return True
            return any(w.node is screen and not w.is_finished for w in self.workers)

        end = time.monotonic() + READING_S
        while time.monotonic() < end and reading():
            await asyncio.sleep(0.02)
        if screen is self.screen:
            screen.call_after_refresh(self.run_action, action, screen)

    def _reap(self) -> None:
        # An ended child that nobody waits for keeps its pid, and with it the run's lock.
        self.children_started = [c for c in self.children_started if c.poll() is None]


def main(web: tuple[str, int] | None = None) -> None:
    """Open the app, or serve it to browsers at ``web`` (host, port).

    Raises:
        UsageError: there is no terminal to draw on, or it cannot be served.
    """
    if web:
        from tui.web import serve

        serve(*web)
        return
    # Textual reads keys from stdin and draws on stderr; a server has its own driver.
    terminal = all(stream and stream.isatty() for stream in (sys.__stdin__, sys.__stderr__))
    if not terminal and not os.environ.get("TEXTUAL_DRIVER"):
        raise UsageError(
            "the ecellm screen needs a terminal",
            got="a pipe or a file",
            cure="run a command instead; `ecellm --help` lists them",
        )
    quick.before_start()
    EcellmApp(own_process=True).run()
