"""A dialog that asks for the parts of one ``ecellm`` command, and shows it as it grows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.message import Message
from textual.screen import ModalScreen
from textual.widgets import Button, Input, Label, Static

from tui.child import command_line
from tui.widgets.command_line import CommandLine
from tui.widgets.cycle import Cycle
from tui.widgets.problem import Problem

Build = Callable[[dict[str, str]], list[str]]


@dataclass(frozen=True)
class Field:
    """One part. With ``choices`` it is a word to cycle through, else a text.

    ``hint`` stands in an empty text field; an ``optional`` one may stay empty.
    """

    key: str
    label: str
    value: str = ""
    choices: tuple[str, ...] = ()
    hint: str = ""
    optional: bool = False


class FieldRow(Horizontal):
    """Label and value of a ``Field``."""

    def __init__(self, part: Field) -> None:
        super().__init__(id=f"field-{part.key}")
        self.part = part

    def compose(self) -> ComposeResult:
        """Label, then a text or a word."""
        yield Label(self.part.label, markup=False)
        if self.part.choices:
            yield Cycle(self.part.choices, self.part.value or self.part.choices[0])
        else:
            yield Input(self.part.value, placeholder=self.part.hint, compact=True)

    @property
    def value(self) -> str:
        """What stands there now."""
        if self.part.choices:
            return self.query_one(Cycle).value
        return self.query_one(Input).value.strip()


class CommandDialog(ModalScreen[tuple[str, ...] | None]):
    """Dismissed with the words of the command, or None."""

    BINDINGS = [
        Binding("ctrl+r", "run", "Run", id="dialog.run", priority=True),
        Binding("ctrl+y", "copy", "Copy command", id="dialog.copy", priority=True),
        Binding("escape", "dismiss(None)", "Cancel", id="dialog.cancel"),
        Binding("up", "app.focus_previous", "Field above", show=False, id="dialog.up"),
        Binding("down", "app.focus_next", "Field below", show=False, id="dialog.down"),
    ]
    AUTO_FOCUS = "Input, Cycle"

    def __init__(self, title: str, about: str, fields: Sequence[Field], build: Build) -> None:
        super().__init__()
        self._title, self._about = title, about
        self._fields, self._build = tuple(fields), build

    def compose(self) -> ComposeResult:
        """The fields, the command, the buttons."""
        with VerticalScroll(id="dialog", can_focus=False) as box:
            box.border_title = self._title
            box.border_subtitle = "^r run · ^y copy · esc cancel"
            yield Static(self._about, classes="hint", markup=False)
            with Vertical(id="dialog-fields"):
                for part in self._fields:
                    yield FieldRow(part)
            yield CommandLine(id="dialog-command")
            yield Problem(id="dialog-problem")
            with Horizontal(classes="buttons"):
                yield Button("^r Run", variant="primary", action="screen.run", compact=True)
                yield Button("^y Copy command", action="screen.copy", compact=True)
                yield Button("esc Cancel", action="screen.dismiss(None)", compact=True)

    def on_mount(self) -> None:
        """Show the command."""
        self._edited()

    @property
    def values(self) -> dict[str, str]:
        """What the fields say; what is missing is its name in capitals."""
        return {
            row.part.key: row.value or ("" if row.part.optional else row.part.key.upper())
            for row in self.query(FieldRow)
        }

    def action_run(self) -> None:
        """Give the command back, once every field is filled."""
        missing = [
            row.part.label
            for row in self.query(FieldRow)
            if not row.value and not row.part.optional
        ]
        if missing:
            self.query_one(Problem).show(f"Give {' and '.join(missing)}.")
            return
        self.dismiss(tuple(self._build(self.values)))

    def action_copy(self) -> None:
        """Copy the command."""
        self.app.copy_to_clipboard(self.query_one(CommandLine).command)
        self.notify("The command was copied.", timeout=3)

    @on(Input.Changed)
    @on(Cycle.Changed)
    def _changed(self, event: Message) -> None:
        event.stop()
        self._edited()

    @on(Input.Submitted)
    def _submitted(self, event: Input.Submitted) -> None:
        event.stop()
        self.action_run()

    def _edited(self) -> None:
        self.query_one(CommandLine).show(command_line(self._build(self.values)))
        self.query_one(Problem).show("")
