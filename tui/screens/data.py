"""Data: what a file of rows holds, and how a row looks to a model."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.text import Text
from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.content import Content
from textual.message import Message
from textual.widgets import DataTable, Input, Label, Static
from textual.worker import get_current_worker

from ecellm_mlx.errors import EcellmError
from tui import on_disk
from tui.cells import cell
from tui.child import CommandRun, command_line
from tui.dialog import Field
from tui.line_child import LineChild
from tui.messages import FileRead, PlaceWanted, TokensRead
from tui.on_disk import Options
from tui.screens.base import PlaceScreen, chosen_row
from tui.widgets.activity import Activity
from tui.widgets.choice import Choice
from tui.widgets.facts import MUTED
from tui.widgets.model_choices import ModelChoice
from tui.widgets.prompt_view import PromptView
from tui.widgets.table import Table

if TYPE_CHECKING:
    from ecellm_mlx.data.rows import Report, Row

SHOWN_ROWS = 500
SHOWN_FINDINGS = 8
ALL = "*"
DEFAULT_CUTOFF = 2048


@dataclass(frozen=True)
class FileContent:
    """A file of rows as the screen shows it. ``rows`` is the first of those that are good."""

    path: Path
    report: Report | None = None
    rows: tuple[Row, ...] = ()
    problem: str = ""


class CountTable(Table):
    """Tasks and settings; the one under the cursor filters the rows."""


class RowTable(Table):
    """The rows; the one under the cursor is shown as a prompt."""


class DataScreen(PlaceScreen):
    """Source, counts, rows, prompt."""

    PLACE = "data"
    PRESET = ("file",)
    HELP = """
    Data shows a file of rows in the ECInstruct format: how many there are of each task
    and setting, what is wrong with which line, and each row as a model reads it.

    In the prompt, the part that training learns from is underlined, and what the cutoff
    takes away is struck through. Tokens are counted with the tokenizer of the model that
    is chosen, by the same rules as in training.

    Import turns a table of your own into rows. Split holds back a category, so that you
    can measure how well a model does on products of a kind it has never seen.
    """
    BINDINGS = [
        Binding("i", "import", "Import table", id="data.import"),
        Binding("h", "split", "Hold out category", id="data.split"),
        Binding("u", "pull", "Pull ECInstruct", id="data.pull"),
        Binding("t", "train", "Train on it", id="data.train"),
    ]
    AUTO_FOCUS = "#counts"

    def __init__(self) -> None:
        super().__init__()
        self.content = FileContent(Path())
        self._shown: list[Row] = []
        self._shown_of = (0, "")
        self._child: LineChild | None = None
        self._asked = 0

    def body(self) -> ComposeResult:
        """What to look at, then the rows, then one of them."""
        with Vertical(classes="column -left"):
            with Vertical(id="source", classes="pane") as pane:
                pane.border_title = "Rows of"
                pane.border_subtitle = "i import · h hold out · u pull · t train"
                yield Choice(
                    "File",
                    id="file",
                    prompt="choose rows",
                    other="a file …",
                    placeholder="file.jsonl",
                )
                yield ModelChoice("Tokens", id="tokens")
                with Horizontal(classes="choice-row"):
                    yield Label("Cutoff", classes="choice-label")
                    yield Input(
                        str(DEFAULT_CUTOFF),
                        id="cutoff",
                        compact=True,
                        type="integer",
                        max_length=6,
                    )
                    yield Label(" tokens", classes="hint")
                yield Static(id="findings", markup=False)
            with Vertical(id="counts-pane", classes="pane") as pane:
                pane.border_title = "Tasks"
                yield CountTable(id="counts", cursor_type="row")
        with Vertical(classes="column -right"):
            with Vertical(id="rows-pane", classes="pane") as pane:
                pane.border_title = "Rows"
                yield RowTable(id="rows", cursor_type="row")
            with VerticalScroll(id="prompt-pane", classes="pane") as pane:
                pane.border_title = "Prompt"
                yield PromptView(id="prompt")
            yield Activity()

    def on_mount(self) -> None:
        """Make the tables, and look for files."""
        for name in ("Task", "Setting", "Split", "Rows"):
            self.query_one(CountTable).add_column(name, key=name)
        for name in ("Row", "Task", "Answer", "Input"):
            self.query_one(RowTable).add_column(name, key=name)

    def on_unmount(self) -> None:
        """The tokenizer's process ends with the screen."""
        super().on_unmount()
        if self._child:
            self._child.end()

    def command_ended(self, run: CommandRun) -> None:
        """New files may be there."""
        self.read_options()

    def options(self) -> dict[str, Options]:
        """Files of rows, and models for their tokenizers."""
        return {"file": on_disk.row_files(), "tokens": on_disk.models()}

    @property
    def file(self) -> str:
        """The chosen file."""
        return self.query_one("#file", Choice).value or ""

    def action_train(self) -> None:
        """Set up a run on the folder of this file."""
        if self.file:
            self.post_message(PlaceWanted("train", {"data": str(Path(self.file).parent)}))

    def action_import(self) -> None:
        """Ask which table becomes rows of which task."""
        from tui.screens.import_rows import ImportDialog

        def answered(words: tuple[str, ...] | None) -> None:
            if words:
                self.run_command(words)

        self.app.push_screen(ImportDialog(), answered)

    def action_split(self) -> None:
        """Ask which category is held out, and where to."""
        self.ask_command(
            "Hold out a category",
            "Rows of the category become the test set; training never sees them.",
            [
                Field("path", "Rows", self.file),
                Field("category", "Category", hint="as the rows name it"),
                Field("by", "Field", "category", hint="which names the category"),
                Field("out", "Folder", hint="a new folder"),
            ],
            lambda v: [
                *("data", "split", v["path"]),
                *("--holdout-category", v["category"], "--by", v["by"], "--out", v["out"]),
            ],
        )

    def action_pull(self) -> None:
        """Ask before the hub is touched."""
        self.ask_command(
            "Pull ECInstruct",
            "Fetches the published rows (about 400 MB) from the hub; an interrupted pull "
            "goes on where it was.",
            [],
            lambda _: ["data", "pull"],
        )

    @on(Choice.Changed, "#file")
    def _file_chosen(self) -> None:
        self.show_command(command_line(["data", "check", self.file or "FILE"]))
        if self.file and Path(self.file) != self.content.path:
            self.query_one("#rows-pane").border_title = "Rows: reading …"
            self._read_file(Path(self.file))

    @on(Choice.Changed, "#tokens")
    @on(Input.Changed, "#cutoff")
    def _tokens_changed(self, event: Message) -> None:
        event.stop()
        self._show_row()

    @on(FileRead)
    def _file_read(self, event: FileRead) -> None:
        self.content = event.content
        self.query_one("#findings", Static).update(_findings(self.content))
        table = self.query_one(CountTable)
        table.clear()
        report = self.content.report
        table.add_row(*map(cell, ("all", "", "", f"{report.rows if report else 0:,}")), key=ALL)
        for task, setting, split, count in _counts(report):
            table.add_row(
                *map(cell, (_short_task(task), _short(setting), split, f"{count:,}")),
                key=_key(task, setting, split),
            )
        self._show_rows()

    @on(DataTable.RowHighlighted, "#counts")
    def _count_highlighted(self, event: DataTable.RowHighlighted) -> None:
        event.stop()
        self._show_rows()

    @on(DataTable.RowHighlighted, "#rows")
    def _row_highlighted(self, event: DataTable.RowHighlighted) -> None:
        event.stop()
        self._show_row()

    @on(TokensRead)
    def _tokens_read(self, event: TokensRead) -> None:
        if event.event.get("id") == self._asked:
            self.query_one(PromptView).show(event.event)
            self.query_one("#prompt-pane").border_title = PromptView.title(event.event)

    def _show_rows(self) -> None:
        wanted = chosen_row(self.query_one(CountTable)) or ALL
        if self._shown_of == (id(self.content), wanted):
            # The first line of the counts comes under the cursor by itself.
            return
        self._shown_of = (id(self.content), wanted)
        rows = [
            r for r in self.content.rows if wanted in (ALL, _key(r.task, r.setting, r.split))
        ]
        self._shown = rows[:SHOWN_ROWS]
        cells = ((str(n), _cells(row)) for n, row in enumerate(self._shown))
        self.query_one(RowTable).fill(cells)
        more = "" if len(rows) <= SHOWN_ROWS else f", the first {SHOWN_ROWS:,} shown"
        self.query_one("#rows-pane").border_title = f"Rows, {len(rows):,}{more}"
        self._show_row()

    def _show_row(self) -> None:
        index = chosen_row(self.query_one(RowTable))
        view = self.query_one(PromptView)
        if index is None or int(index) >= len(self._shown):
            view.show({"message": self.content.problem or "No row."})
            return
        row = self._shown[int(index)]
        task = _short_task(row.task)
        self.show_command(
            command_line(["data", "show", self.file, "--task", task])
            if self.query_one(RowTable).has_focus
            else command_line(["data", "check", self.file or "FILE"])
        )
        model = self.query_one("#tokens", Choice).value
        cutoff = self.query_one("#cutoff", Input).value
        view.show_plain(row)
        self.query_one("#prompt-pane").border_title = "Prompt"
        if model and cutoff.isdigit() and int(cutoff) >= 1:
            self._ask_tokens(row, model, int(cutoff))

    def _ask_tokens(self, row: Row, model: str, cutoff: int) -> None:
        from ecellm_mlx.models import registry

        try:
            folder = registry.resolve(model)
        except EcellmError:
            return
        if self._child is None or not self._child.alive:
            try:
                self._child = LineChild(
                    "ecellm_mlx.data.token_view",
                    lambda event: self.post_message(TokensRead(event)),
                    lambda code, words: self._no_tokens(f"The tokenizer ended: {words}"),
                )
            except OSError as error:
                self._no_tokens(f"The tokenizer cannot be started: {error}")
                return
        self._asked = self._child.send(
            model=str(folder.absolute()),
            max_length=cutoff,
            row={
                "instruction": row.instruction,
                "input": row.input,
                "options": row.options,
                "output": row.output,
            },
        )

    def _no_tokens(self, sentence: str) -> None:
        self.post_message(TokensRead({"id": self._asked, "message": sentence}))

    @work(thread=True, exclusive=True, group="file")
    def _read_file(self, path: Path) -> None:
        from ecellm_mlx.data import rows

        try:
            report = rows.check(path)
            good = rows.load(path) if report.ok else []
            content = FileContent(path, report, tuple(good))
        except (EcellmError, OSError) as error:
            content = FileContent(path, problem=str(error))
        if not get_current_worker().is_cancelled:
            self.post_message(FileRead(content))


def _counts(report: Report | None) -> Iterable[tuple[str, str, str, int]]:
    for task, settings in (report.counts if report else {}).items():
        for setting, splits in settings.items():
            for split, count in splits.items():
                yield task, setting, split, count


def _short(setting: str) -> str:
    return setting.replace("_Instruction", "").replace("_", " ")


def _key(task: str, setting: str, split: str) -> str:
    return f"{task}|{setting}|{split}"


def _short_task(name: str) -> str:
    from ecellm_mlx.tasks.registry import TASKS

    return TASKS[name].short if name in TASKS else name


def _cells(row: Row) -> list[Text]:
    return [
        cell(row.id.removeprefix(f"{row.task}/")),
        cell(_short_task(row.task)),
        cell(row.output[:24]),
        cell(row.input[:80]),
    ]


def _findings(content: FileContent) -> Content:
    report: Any = content.report
    if report is None:
        return Content.styled(f"✗ {content.problem}", "$text-error")
    if report.ok and not report.warnings:
        return Content.styled(
            f"✓ {report.rows:,} rows, nothing to complain about", "$text-success"
        )
    lines = []
    for mark, style, findings in (
        ("✗", "$text-error", report.errors),
        ("!", "$text-warning", report.warnings),
    ):
        for finding in findings[:SHOWN_FINDINGS]:
            cure = f"; {finding.cure}" if finding.cure else ""
            words = f"{mark} line {finding.line}: {finding.what}"
            lines.append(Content.styled(words, style) + Content.styled(cure, MUTED))
        if len(findings) > SHOWN_FINDINGS:
            rest = f"{mark} and {len(findings) - SHOWN_FINDINGS:,} more of this kind"
            lines.append(Content.styled(rest, style))
    return Content("\n").join(lines)
