"""Review: the least sure answers of a catalog run, to accept or to correct."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path

from rich.text import Text
from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import DataTable, Input, Label, Static

from ecellm_mlx import workspace
from ecellm_mlx.catalog import review
from ecellm_mlx.catalog.review import ReviewFile, ReviewItem
from ecellm_mlx.errors import EcellmError
from ecellm_mlx.jobs import RunDirectory
from tui import child
from tui.cells import GOOD, WARNING, cell
from tui.messages import Applied, ReviewRead
from tui.quick import QuickScreen
from tui.screens.base import chosen_row
from tui.widgets.answer_pane import bar
from tui.widgets.command_line import CommandLine
from tui.widgets.facts import MUTED
from tui.widgets.key_bar import KeyBar
from tui.widgets.nav import NavBar
from tui.widgets.problem import Problem
from tui.widgets.table import Table


class ReviewTable(Table):
    """The rows, the least sure first."""


class CorrectDialog(ModalScreen[str | None]):
    """Asks for the right answer; dismissed with it, or None."""

    BINDINGS = [Binding("escape", "dismiss(None)", "Cancel", id="correct.cancel")]

    def __init__(self, item: ReviewItem) -> None:
        super().__init__()
        self._item = item

    def compose(self) -> ComposeResult:
        """What was answered, and a field for what is right."""
        with VerticalScroll(id="dialog", can_focus=False) as box:
            box.border_title = "The right answer"
            box.border_subtitle = "enter take it · esc cancel"
            yield Static(f"The model said: {self._item.answer}", classes="hint", markup=False)
            yield Input(self._item.correction or self._item.answer, compact=True)

    @on(Input.Submitted)
    def _submitted(self, event: Input.Submitted) -> None:
        event.stop()
        self.dismiss(event.value.strip() or None)


class ReviewScreen(QuickScreen):
    """A table of rows and the one under the cursor."""

    HELP = """
    Review shows the answers of a catalog run that the model was least sure of.

    Accept an answer, or write the right one. Every decision is saved at once, in the last
    column of the review file beside the output, where a spreadsheet program finds it too.

    Apply takes the decisions over: the table is written again with them, no later run
    replaces them, and they become training rows that the Train screen offers.
    """
    BINDINGS = [
        Binding("a", "accept", "Accept", id="review.accept"),
        Binding("c,enter", "correct", "Correct", id="review.correct"),
        Binding("u", "undo", "Undecide", id="review.undo"),
        Binding(
            "s", "apply", "Apply", id="review.apply", tooltip="Into table and training rows"
        ),
        Binding("ctrl+y", "copy", "Copy command", show=False, id="review.copy"),
        Binding("escape", "dismiss", "Back", id="review.back"),
    ]
    AUTO_FOCUS = "#review"

    def __init__(self, run: Path) -> None:
        super().__init__()
        self.run = RunDirectory(run)
        self.file: ReviewFile | None = None
        self.items: list[ReviewItem] = []
        self._decisions: dict[str, str] = {}
        self._saving = threading.Lock()

    def compose(self) -> ComposeResult:
        """The table, the row."""
        yield NavBar("catalog")
        with Vertical(id="review-body", classes="body"):
            with Vertical(id="review-pane", classes="pane") as pane:
                pane.border_title = Content(f"Review of {self.run.path.name}")
                pane.border_subtitle = "a accept · c correct · u undecide · s apply"
                yield ReviewTable(id="review", cursor_type="row")
                yield Problem(id="review-problem")
            with VerticalScroll(id="item-pane", classes="pane") as pane:
                pane.border_title = "The product"
                yield Static(id="item", markup=False)
        with Horizontal(id="command-bar"):
            yield Label("^y", id="command-key")
            yield CommandLine()
        yield KeyBar()

    def on_mount(self) -> None:
        """Read the file."""
        for name in ("", "Sure", "Answer", "Decided", "Product"):
            self.query_one(ReviewTable).add_column(name, key=name or "mark")
        self._read()

    def action_accept(self) -> None:
        """The answer is right."""
        if item := self._chosen():
            self._decide(item, item.answer)

    def action_correct(self) -> None:
        """Ask for the right answer."""
        item = self._chosen()
        if item is None:
            return

        def answered(text: str | None) -> None:
            if text:
                self._decide(item, text)

        self.app.push_screen(CorrectDialog(item), answered)

    def action_undo(self) -> None:
        """Forget the decision."""
        if item := self._chosen():
            self._decide(item, "")

    def action_apply(self) -> None:
        """Take the decisions over, with the command that is shown."""
        if not any(item.correction for item in self.items):
            self.notify("Nothing is decided yet.", severity="warning")
            return
        self.notify("Applying the decisions …", timeout=2)
        self._apply()

    def action_copy(self) -> None:
        """Copy the command that is shown."""
        self.app.copy_to_clipboard(self.query_one(CommandLine).command)
        self.notify("The command was copied.", timeout=3)

    @on(DataTable.RowSelected, "#review")
    def _row_selected(self, event: DataTable.RowSelected) -> None:
        event.stop()
        self.action_correct()

    @on(DataTable.RowHighlighted, "#review")
    def _row_highlighted(self, event: DataTable.RowHighlighted) -> None:
        event.stop()
        self._show_item()

    @on(ReviewRead)
    def _review_read(self, event: ReviewRead) -> None:
        self.query_one(Problem).show(event.problem)
        if event.file is None:
            return
        self.file, self.items = event.file, list(event.file.items)
        table = self.query_one(ReviewTable)
        table.fill((item.key, self._cells(item)) for item in list(self.items))
        self._show_title()
        self._show_item()

    def _decide(self, item: ReviewItem, text: str) -> None:
        place = next(n for n, known in enumerate(self.items) if known.key == item.key)
        self.items[place] = replace(item, correction=text)
        table = self.query_one(ReviewTable)
        for column, value in zip(table.columns, self._cells(self.items[place]), strict=True):
            table.update_cell(item.key, column, value, update_width=True)
        if text and table.cursor_row < table.row_count - 1:
            table.move_cursor(row=table.cursor_row + 1)
        self._show_title()
        self._show_item()
        self._decisions = {known.key: known.correction for known in self.items}
        self._save()

    def _cells(self, item: ReviewItem) -> list[Text]:
        if not item.correction:
            mark = cell("○")
        elif item.accepted:
            mark = cell("✓", self.app, GOOD)
        else:
            mark = cell("✎", self.app, WARNING)
        decided = "" if item.accepted else item.correction
        return [
            mark,
            cell(f"{bar(item.confidence, 6)} {item.confidence:.2f}"),
            cell(item.answer[:40]),
            cell(decided[:40]),
            cell(next(iter(item.fields.values()), "")[:60]),
        ]

    def _chosen(self) -> ReviewItem | None:
        key = chosen_row(self.query_one(ReviewTable))
        return next((item for item in self.items if item.key == key), None)

    def _show_title(self) -> None:
        done = sum(bool(item.correction) for item in self.items)
        title = f"Review of {self.run.path.name}, {done} of {len(self.items)} decided"
        self.query_one("#review-pane").border_title = Content(title)

    def _show_item(self) -> None:
        if item := self._chosen():
            facts = [("line", item.line), *item.fields.items(), ("answer", item.answer)]
            if item.correction:
                facts.append(("decided", item.correction))
            lines = [
                Content.styled(name.ljust(22), MUTED) + Content(value) for name, value in facts
            ]
            self.query_one("#item", Static).update(Content("\n").join(lines))
        self.query_one(CommandLine).show(child.command_line(self._words()))

    def _words(self) -> list[str]:
        """The command that applies the decisions."""
        name = (
            Path(self.file.path.name.removesuffix(".review.csv")).name if self.file else "rows"
        )
        rows = workspace.current().datasets / f"{name}-reviewed" / "train.jsonl"
        return ["catalog", "correct", str(self.run.path), "--rows", str(rows)]

    @work(thread=True, group="read")
    def _read(self) -> None:
        try:
            self.post_message(ReviewRead(review.read(review.of_run(self.run))))
        except EcellmError as error:
            self.post_message(ReviewRead(None, str(error)))
        except KeyError as error:
            self.post_message(ReviewRead(None, f"{self.run.path}: job.json has no {error}."))

    @on(Applied)
    def _applied(self, event: Applied) -> None:
        if event.problem:
            self.notify(event.problem, severity="error", timeout=10, markup=False)
            return
        value = event.value
        self.notify(
            f"{value['decided']} rows decided, {value['corrected']} of them corrected. "
            f"Training rows: {value['rows']}",
            timeout=10,
            markup=False,
        )

    @work(thread=True, exclusive=True, group="apply")
    def _apply(self) -> None:
        value, problem = child.ask([*self._words(), "--json"])
        self.post_message(Applied(value, problem))

    @work(thread=True, group="save")
    def _save(self) -> None:
        if self.file is None:
            return
        try:
            with self._saving:
                # The newest decisions, whichever thread gets here last.
                review.save(self.file, self._decisions)
        except (EcellmError, OSError) as error:
            self.app.call_from_thread(
                self.notify, f"Not saved: {error}", severity="error", markup=False
            )
