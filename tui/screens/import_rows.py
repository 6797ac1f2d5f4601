"""Turn a table of one's own into rows: which table and task, then which column is what."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.message import Message
from textual.screen import ModalScreen
from textual.widgets import Button, Input, Label, Select, Static
from textual.worker import get_current_worker

from ecellm_mlx.tasks.fields import ATTRIBUTE, OPTIONS, OUTPUT
from ecellm_mlx.tasks.registry import TASKS, find
from tui import child
from tui.child import command_line
from tui.messages import TableRead
from tui.widgets.choice import Choice
from tui.widgets.command_line import CommandLine
from tui.widgets.problem import Problem

NOTHING = ("–", "")


@dataclass(frozen=True)
class ImportOrder:
    """What ``ecellm data import`` is told."""

    table: str
    task: str
    mapping: tuple[str, ...]
    out: str

    def words(self) -> list[str]:
        """The command's words after ``ecellm``."""
        words = ["data", "import", self.table or "TABLE", "--task", self.task]
        for item in self.mapping:
            words += ["--map", item]
        return [*words, "--out", self.out] if self.out else words


def wanted(task: str) -> list[tuple[str, bool]]:
    """Names of what a column can be, and whether it must be given."""
    chosen = find(task)
    fields = [
        (name, chosen.needs_options if name == OPTIONS else name in chosen.required)
        for name in chosen.asked
    ]
    # A ranking may come from judgments, extracted values from columns of their own.
    columns = chosen.kind.answer_columns
    answers = [(name, columns == (OUTPUT,)) for name in columns if name != ATTRIBUTE]
    return [*fields, *answers, ("category", False), ("id", False)]


class ImportDialog(ModalScreen[tuple[str, ...] | None]):
    """Dismissed with the words of the command, or None."""

    BINDINGS = [
        Binding("ctrl+r", "run", "Import", id="import.run", priority=True),
        Binding("ctrl+y", "copy", "Copy command", id="import.copy", priority=True),
        Binding("escape", "dismiss(None)", "Cancel", id="import.cancel"),
    ]
    AUTO_FOCUS = "#table"

    def __init__(self) -> None:
        super().__init__()
        self._columns: list[str] = []

    def compose(self) -> ComposeResult:
        """Table and task, the columns, the command."""
        with VerticalScroll(id="dialog", can_focus=False) as box:
            box.border_title = "Import a table as rows"
            box.border_subtitle = "enter read columns · ^r import · esc cancel"
            yield Static(
                "Choose the table and the task; then say which column holds what. Every "
                "row is checked before anything is written.",
                classes="hint",
            )
            with Horizontal(classes="choice-row"):
                yield Label("Table", classes="choice-label")
                yield Input(id="table", placeholder="reviews.csv", compact=True)
            with Horizontal(classes="choice-row"):
                yield Label("Task", classes="choice-label")
                yield Select(
                    [(f"{task.short}  {task.title}", task.short) for task in TASKS.values()],
                    value="SA",
                    allow_blank=False,
                    compact=True,
                    id="task",
                )
            with Horizontal(classes="choice-row"):
                yield Label("Folder", classes="choice-label")
                yield Input(id="out", placeholder="a new folder (optional)", compact=True)
            yield Vertical(id="mapping")
            yield Problem(id="dialog-problem")
            yield CommandLine(id="dialog-command")
            with Horizontal(classes="buttons"):
                yield Button("^r Import", variant="primary", action="screen.run", compact=True)
                yield Button("^y Copy command", action="screen.copy", compact=True)
                yield Button("esc Cancel", action="screen.dismiss(None)", compact=True)

    def on_mount(self) -> None:
        """Show the command."""
        self._edited()

    @property
    def order(self) -> ImportOrder:
        """What the form says now."""
        rows = self.query("#mapping Choice").results(Choice)
        items = [(row.name, row.value) for row in rows if row.value]
        return ImportOrder(
            table=self.query_one("#table", Input).value.strip(),
            task=str(self.query_one("#task", Select).value),
            mapping=tuple(
                f"{name}={value}" if value in self._columns else f"{name}=:{value}"
                for name, value in items
            ),
            out=self.query_one("#out", Input).value.strip(),
        )

    def action_run(self) -> None:
        """Give the command back, once all that is required is mapped."""
        order = self.order
        mapped = {item.partition("=")[0] for item in order.mapping}
        needed = [name for name, needed in wanted(order.task) if needed]
        lacking = find(order.task).lacking(mapped)
        missing = [*lacking, *(n for n in needed if n not in mapped and n not in lacking)]
        if not order.table:
            self._complain("Give the table.")
        elif missing:
            self._complain(f"Say which column is {', '.join(missing)}.")
        else:
            self.dismiss(tuple(order.words()))

    def action_copy(self) -> None:
        """Copy the command."""
        self.app.copy_to_clipboard(self.query_one(CommandLine).command)
        self.notify("The command was copied.", timeout=3)

    @on(Input.Submitted, "#table")
    @on(Select.Changed, "#task")
    def _table_or_task(self, event: Message) -> None:
        event.stop()
        order = self.order
        if order.table:
            self._read_table(order.table, order.task)
        self._edited()

    @on(Choice.Changed)
    @on(Input.Changed)
    def _changed(self, event: Message) -> None:
        event.stop()
        self._edited()

    @on(TableRead)
    async def _table_read(self, event: TableRead) -> None:
        if event.problem:
            self._complain(event.problem)
            return
        self._complain("")
        value: dict[str, Any] = event.value
        self._columns = [str(name) for name in value["columns"]]
        guessed = {c["field"]: c["column"] for c in value.get("choices", ())}
        box = self.query_one("#mapping", Vertical)
        await box.query(Choice).remove()
        options = [NOTHING, *((name, name) for name in self._columns)]
        await box.mount(
            *(
                Choice(
                    f"{name.rstrip(':')}{' *' if needed else ''}",
                    id=f"map-{number}",
                    name=name,
                    prompt="–",
                    other="a fixed text …",
                    placeholder="the same in every row",
                    options=options,
                    value=guessed.get(name, ""),
                )
                for number, (name, needed) in enumerate(wanted(self.order.task))
            )
        )
        self._edited()

    def _edited(self) -> None:
        self.query_one(CommandLine).show(command_line(self.order.words()))

    def _complain(self, sentence: str) -> None:
        self.query_one(Problem).show(sentence)

    @work(thread=True, exclusive=True, group="table")
    def _read_table(self, table: str, task: str) -> None:
        path = str(Path(table).expanduser())
        value, problem = child.ask(["catalog", "show", path, "--task", task, "--json"])
        if not get_current_worker().is_cancelled:
            self.post_message(TableRead(value, problem))
