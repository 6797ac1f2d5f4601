"""What the places have in common: a frame, the command they stand for, child commands."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import Horizontal, VerticalScroll
from textual.widgets import Label
from textual.worker import get_current_worker

from tui.child import CommandRun
from tui.dialog import CommandDialog, Field
from tui.messages import CommandEnded, CommandSaid, OptionsRead
from tui.on_disk import Options
from tui.quick import QuickScreen
from tui.widgets.activity import Activity
from tui.widgets.choice import Choice
from tui.widgets.command_line import CommandLine
from tui.widgets.key_bar import KeyBar
from tui.widgets.nav import NavBar


class PlaceScreen(QuickScreen):
    """A place. Subclasses give ``PLACE`` and ``body``, and keep the command up to date.

    ``PRESET`` names the ``Choice`` fields that another place may fill in.

    ``run_command`` runs an ``ecellm`` command beside the app and shows it; when it has
    ended, ``command_ended`` is called. ``look`` is called whenever the screen is shown;
    ``looked`` says that it was. ``read_options`` asks ``options``, in a thread, what the
    ``Choice`` fields can offer.
    """

    PLACE: ClassVar[str] = ""
    PRESET: ClassVar[tuple[str, ...]] = ()
    BINDINGS = [
        Binding("ctrl+y", "copy", "Copy command", show=False, id="place.copy", priority=True),
        Binding("ctrl+x", "end_command", "End command", show=False, id="place.end-command"),
    ]

    def __init__(self) -> None:
        super().__init__()
        self.running: CommandRun | None = None
        self.looked = False

    def compose(self) -> ComposeResult:
        """Places on top, the body, the command, the keys."""
        yield NavBar(self.PLACE)
        with VerticalScroll(id=f"{self.PLACE}-body", classes="body", can_focus=False):
            yield from self.body()
        with Horizontal(id="command-bar"):
            yield Label("^y", id="command-key")
            yield CommandLine()
        yield KeyBar()

    def on_mount(self) -> None:
        """What comes or goes above the field that is typed in must not push it out of sight."""
        body = self.query_one(f"#{self.PLACE}-body")
        self.watch(body, "virtual_size", self._keep_in_sight, init=False)

    def body(self) -> ComposeResult:
        """The panes."""
        yield from ()

    def on_screen_resume(self) -> None:
        """Be drawn first; what is found out by then would hold that up."""
        self.call_after_refresh(self._look)

    def look(self) -> None:
        """Look for what may have been installed, trained or imported meanwhile."""
        self.read_options()

    def preset(self, values: dict[str, str]) -> None:
        """Take over values that another place passes on, by field name."""
        for name in self.PRESET:
            if value := values.get(name):
                self.query_one(f"#{name}", Choice).choose(value)

    def options(self) -> dict[str, Options]:
        """What the fields can offer, by their ids. Reads the disk: called in a thread."""
        return {}

    def options_read(self) -> None:
        """The fields offer what there is now."""

    def show_command(self, command: str) -> None:
        """Show the command that the screen stands for now."""
        self.query_one(CommandLine).show(command)

    def command_ended(self, run: CommandRun) -> None:
        """A command of this screen has ended."""

    def action_copy(self) -> None:
        """Copy the command that is shown."""
        if command := self.query_one(CommandLine).command:
            self.app.copy_to_clipboard(command)
            self.notify("The command was copied.", timeout=3)

    def action_end_command(self) -> None:
        """End the command that runs."""
        if self.running:
            self.running.end()

    def ask_command(
        self,
        title: str,
        about: str,
        fields: Sequence[Field],
        build: Callable[[dict[str, str]], list[str]],
    ) -> None:
        """Ask for the fields of a command in a dialog, then run it."""

        def answered(words: tuple[str, ...] | None) -> None:
            if words:
                self.run_command(words)

        self.app.push_screen(CommandDialog(title, about, fields, build), answered)

    def run_command(self, words: Sequence[str]) -> None:
        """Run ``ecellm WORDS`` beside the app, one at a time."""
        if self.running:
            self.notify(
                f"Wait for `{self.running.line}`, or end it with ctrl+x.",
                severity="warning",
                markup=False,
            )
            return
        self.running = CommandRun(words)
        self.query_one(Activity).begin(self.running)
        self._follow_command(self.running)

    def on_unmount(self) -> None:
        """A child ends with the app."""
        if self.running:
            self.running.end()

    def _look(self) -> None:
        self.looked = True
        self.look()

    def _keep_in_sight(self) -> None:
        if self.focused:
            self.call_after_refresh(self.focused.scroll_visible, animate=False)

    @on(CommandSaid)
    def _command_said(self, event: CommandSaid) -> None:
        self.query_one(Activity).say(event.run, event.text)

    @on(CommandEnded)
    def _command_ended(self, event: CommandEnded) -> None:
        self.running = None
        self.query_one(Activity).end(event.run)
        self.command_ended(event.run)

    @on(OptionsRead)
    def _options_read(self, event: OptionsRead) -> None:
        for name, options in event.options.items():
            self.query_one(f"#{name}", Choice).offer(options)
        self.options_read()

    @work(thread=True, exclusive=True, group="options")
    def read_options(self) -> None:
        """Look for what was installed, trained or imported meanwhile."""
        try:
            options = self.options()
        except OSError as error:
            words = f"The lists cannot be read: {error}"
            self.app.call_from_thread(self.notify, words, severity="error", markup=False)
            return
        if not get_current_worker().is_cancelled:
            self.post_message(OptionsRead(options))

    @work(thread=True, group="command")
    def _follow_command(self, run: CommandRun) -> None:
        for text in run.lines():
            self.post_message(CommandSaid(run, text))
        self.post_message(CommandEnded(run))


def chosen_row(table: Any) -> str | None:
    """The key of the row under the cursor of a ``DataTable``, or None."""
    if not table.row_count:
        return None
    return str(table.coordinate_to_cell_key(table.cursor_coordinate).row_key.value)
