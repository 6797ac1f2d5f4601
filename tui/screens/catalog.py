"""Catalog: a table, what is asked about each product, a preview, and the run."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.message import Message
from textual.widgets import Button, DataTable, Input, Label, Select, Static
from textual.worker import get_current_worker

from ecellm_mlx import jobs, settings
from ecellm_mlx.catalog.settings import Asked, CatalogSettings, Reading
from ecellm_mlx.errors import EcellmError
from ecellm_mlx.jobs import RunDirectory
from ecellm_mlx.tasks.fields import TARGETS
from ecellm_mlx.tasks.registry import TASKS, Task, find
from tui import child, on_disk
from tui.cells import BAD, cell
from tui.child import command_line
from tui.messages import (
    CatalogRunsRead,
    JobRefused,
    JobStarted,
    PreviewRead,
    TableRead,
)
from tui.on_disk import Options
from tui.screens.base import PlaceScreen, chosen_row
from tui.widgets.choice import Choice
from tui.widgets.model_choices import AdapterChoice, ModelChoice
from tui.widgets.problem import Problem
from tui.widgets.table import Table

SETTLE_S = 0.4  # typing is over when nothing was typed for this long
PREVIEW_ROWS = 3
NOTHING = ("–", "")
DEFAULT_TASK = "AVE"


@dataclass(frozen=True)
class CatalogOrder:
    """What ``ecellm catalog run`` is told, as it stands in the form."""

    table: str
    asked: Asked
    model: str
    adapter: str
    out: str
    review_below: str

    @property
    def mapping(self) -> tuple[str, ...]:
        """``field=column`` items."""
        return self.asked.mapping

    def create(self) -> RunDirectory:
        """Create the job's run.

        Raises:
            EcellmError: what is wrong with the order.
        """
        from ecellm_mlx.catalog import job, lists
        from ecellm_mlx.catalog.saved import SavedQuestion

        names = lists.attributes(self.asked.attributes) if self.asked.attributes else []
        said = {
            "model": self.model,
            "adapter": self.adapter or None,
            "out": Path(self.out).expanduser(),
            "review_below": self.review_below or None,
        }
        how = settings.make(CatalogSettings, said)
        table = Path(self.table)
        asked = SavedQuestion(task=self.asked.task or "", attributes=names)
        return job.create(table, asked.question(Reading().open(table).names, self.mapping), how)

    def question(self) -> list[str]:
        """The words that say what is asked of whom."""
        words = [*settings.words(self.asked), "--model", self.model or "MODEL"]
        if self.adapter:
            words += ["--adapter", self.adapter]
        return words

    def words(self) -> list[str]:
        """The command's words after ``ecellm``."""
        words = ["catalog", "run", self.table or "TABLE", *self.question()]
        words += ["--out", self.out or "OUT"]
        if self.review_below:
            words += ["--review-below", self.review_below]
        return words


class PreviewTable(Table):
    """The first rows; the prompt of the one under the cursor is shown below."""


class CatalogScreen(PlaceScreen):
    """Form, preview, prompt."""

    PLACE = "catalog"
    PRESET = ("table", "model", "adapter")
    HELP = """
    Catalog asks one question about every product of a table (CSV, TSV, JSON Lines,
    Parquet, XLSX) and writes the same table with the answers appended. A run that is
    stopped or killed goes on where it was.

    The mapping of columns to fields is guessed; correct it and see on the right what the
    model will read. Preview asks the model about the first rows, before hours are spent.

    Rows whose confidence is below the limit go to a review file. Review shows them, lets
    you accept or correct each answer, and turns what you decide into training rows.
    """
    BINDINGS = [
        Binding("ctrl+r", "start", "Run", id="catalog.run", priority=True),
        Binding("ctrl+e", "preview", "Preview answers", id="catalog.preview", priority=True),
        Binding("ctrl+l", "review", "Review", id="catalog.review", priority=True),
    ]
    AUTO_FOCUS = "#table Select"

    def __init__(self) -> None:
        super().__init__()
        self._columns: list[str] = []
        self._rows: list[dict[str, Any]] = []
        self._asked: list[str] = []
        self._starting = False
        self._out_touched = False
        self._preview_name = "Preview"
        self._runs: list[Path] = []

    def body(self) -> ComposeResult:
        """The form, the preview, the prompt."""
        with (
            Vertical(classes="column -left"),
            VerticalScroll(id="catalog-form", classes="pane", can_focus=False) as pane,
        ):
            pane.border_title = "Catalog"
            pane.border_subtitle = "^r run · ^e preview answers · ^l review"
            yield Choice(
                "Table",
                id="table",
                prompt="choose a table",
                other="a file …",
                placeholder="shop.csv, .tsv, .jsonl, .parquet or .xlsx",
            )
            with Horizontal(classes="choice-row"):
                yield Label("Task", classes="choice-label")
                yield Select(
                    [
                        (f"{task.short}  {task.title}", task.name)
                        # Those that need nothing but the product, first.
                        for task in sorted(TASKS.values(), key=lambda task: task.needs)
                    ],
                    value=find(DEFAULT_TASK).name,
                    allow_blank=False,
                    compact=True,
                    id="task",
                )
            with Horizontal(classes="choice-row", id="attributes-row"):
                yield Label("Extract", classes="choice-label")
                yield Input("Brand,Color", id="attributes", compact=True)
            yield Static(id="mapping-title", classes="hint", markup=False)
            yield Vertical(id="mapping")
            yield ModelChoice()
            yield AdapterChoice()
            with Horizontal(classes="choice-row"):
                yield Label("Write to", classes="choice-label")
                yield Input(id="out", placeholder="shop.out.csv", compact=True)
            with Horizontal(classes="choice-row"):
                yield Label("Review", classes="choice-label")
                yield Input("0.8", id="review-below", compact=True)
                yield Label(" below this confidence", classes="hint")
            yield Problem(id="catalog-problem")
            with Horizontal(classes="buttons"):
                yield Button(
                    "^r Run",
                    id="start",
                    variant="primary",
                    action="screen.start",
                    compact=True,
                )
                yield Button("^e Preview", action="screen.preview", compact=True)
                yield Button("^l Review", action="screen.review", compact=True)
        with Vertical(classes="column -right"):
            with Vertical(id="preview-pane", classes="pane") as pane:
                pane.border_title = "Preview"
                yield PreviewTable(id="preview", cursor_type="row")
            with VerticalScroll(id="prompt-pane", classes="pane") as pane:
                pane.border_title = "What the model reads"
                yield Static(id="prompt", markup=False)

    def on_mount(self) -> None:
        """Make the table."""
        for name in ("Line", "Answer", "Sure", "Problem"):
            self.query_one(PreviewTable).add_column(name, key=name)

    def options(self) -> dict[str, Options]:
        """The sample, models and adapters; and runs to review."""
        self.post_message(CatalogRunsRead(on_disk.finished_runs("catalog")))
        return {
            "table": [("sample: 60 products that come with ecellm", str(_sample()))],
            "model": on_disk.models(),
            "adapter": on_disk.adapter_options(),
        }

    @property
    def chosen_task(self) -> Task:
        """The chosen task."""
        return find(str(self.query_one("#task", Select).value))

    @property
    def order(self) -> CatalogOrder:
        """What the form says now."""
        extracts = self.chosen_task.extracts
        attributes = self.query_one("#attributes", Input).value.strip()
        return CatalogOrder(
            table=self.query_one("#table", Choice).value or "",
            asked=Asked(
                task=self.chosen_task.short,
                mapping=tuple(self._mapping()),
                attributes=attributes if extracts and attributes else None,
            ),
            model=self.query_one("#model", Choice).value or "",
            adapter=self.query_one("#adapter", Choice).value or "",
            out=self.query_one("#out", Input).value.strip(),
            review_below=self.query_one("#review-below", Input).value.strip(),
        )

    def action_start(self) -> None:
        """Check everything, then start the job."""
        if self._starting:
            return
        self._complain("")
        self._starting = True
        self.query_one("#start", Button).label = "checking …"
        self._start(self.order)

    def action_preview(self) -> None:
        """Ask the model about the first rows."""
        order = self.order
        if missing := self._missing(order):
            self.notify(f"Nothing can be asked yet: {missing} first.", severity="warning")
            return
        self._name_preview(order, "Preview: asking the model …")
        self._preview(order, True)

    def action_review(self) -> None:
        """Open the review of the newest run that has one."""
        from tui.screens.review import ReviewScreen

        if self._runs:
            self.app.push_screen(ReviewScreen(self._runs[0]))
        else:
            self.notify("No catalog run has finished yet.", severity="warning")

    @on(CatalogRunsRead)
    def _runs_read(self, event: CatalogRunsRead) -> None:
        self._runs = event.runs

    @on(Choice.Changed, "#table")
    def _table_chosen(self, event: Choice.Changed) -> None:
        event.stop()
        self._read_table(self.order.table, self.chosen_task.short)
        self._suggest_out()
        self._edited()

    @on(Select.Changed, "#task")
    def _task_chosen(self, event: Select.Changed) -> None:
        event.stop()
        self.query_one("#attributes-row").display = self.chosen_task.extracts
        self._read_table(self.order.table, self.chosen_task.short)
        self._suggest_out()
        self._edited()

    @on(TableRead)
    async def _table_read(self, event: TableRead) -> None:
        title = self.query_one("#mapping-title", Static)
        if event.problem:
            title.update("")
            self._complain(event.problem)
            return
        self._complain("")
        value: dict[str, Any] = event.value
        self._columns = [str(name) for name in value["columns"]]
        facts = ", ".join(f"{k} {v}" for k, v in value.get("table", {}).items())
        title.update(f"{facts}\nField = column, as guessed; * is required:")
        guessed = {c["field"]: c["column"] for c in value.get("choices", ())}
        await self._show_mapping(guessed)
        self._edited()

    @on(Choice.Changed)
    @on(Input.Changed)
    def _changed(self, event: Message) -> None:
        event.stop()
        if isinstance(event, Input.Changed) and event.input.id == "out":
            self._out_touched = True
        self._edited()

    @on(PreviewRead)
    def _preview_read(self, event: PreviewRead) -> None:
        if event.problem:
            self._name_preview(self.order, "Preview")
            self._complain(event.problem)
            return
        self._rows = list(event.value["rows"])
        name = "Preview" if event.answered else "Preview, not asked yet"
        self._name_preview(self.order, name)
        table = self.query_one(PreviewTable)
        table.clear()
        for number, row in enumerate(self._rows):
            sure = row.get("confidence")
            table.add_row(
                cell(str(row["line"])),
                cell(row.get("answer") or "–"),
                cell("" if sure is None else f"{sure:.2f}"),
                cell(row.get("error") or "", self.app, BAD if row.get("error") else ""),
                key=str(number),
            )
        self._show_prompt()

    @on(DataTable.RowHighlighted, "#preview")
    def _row_highlighted(self, event: DataTable.RowHighlighted) -> None:
        event.stop()
        self._show_prompt()

    @on(JobRefused)
    def _job_refused(self, event: JobRefused) -> None:
        event.stop()
        self._started()
        self._complain(event.sentence)

    @on(JobStarted)
    def _job_started(self) -> None:
        # The app takes the message from here and opens the run.
        self._started()

    def _suggest_out(self) -> None:
        """Name the output after table and task, until the user names it."""
        if not self.order.table or self._out_touched:
            return
        table = Path(self.order.table)
        name = f"{table.stem}.{self.chosen_task.short.lower()}{table.suffix}"
        folder = Path.cwd() if table == _sample() else table.parent
        with self.prevent(Input.Changed):
            self.query_one("#out", Input).value = str(folder / name)

    def _started(self) -> None:
        self._starting = False
        self.query_one("#start", Button).label = "^r Run"

    def _mapping(self) -> list[str]:
        items = []
        for row in self.query("#mapping Choice").results(Choice):
            if value := row.value:
                # What is no column is a text that is the same for every product.
                column = value if value in self._columns else f":{value}"
                items.append(f"{row.name}={column}")
        return items

    async def _show_mapping(self, guessed: dict[str, str]) -> None:
        box = self.query_one("#mapping", Vertical)
        await box.query(Choice).remove()
        options = [NOTHING, *((name, name) for name in self._columns)]
        rows = []
        for number, field in enumerate(self.chosen_task.fields):
            if field == TARGETS:
                continue
            star = " *" if field in self.chosen_task.required else ""
            rows.append(
                Choice(
                    f"{field.rstrip(':')}{star}",
                    id=f"map-{number}",
                    name=field,
                    prompt="–",
                    other="a fixed text …",
                    placeholder="the same for every product",
                    options=options,
                    value=guessed.get(field, ""),
                )
            )
        await box.mount(*rows)

    def _edited(self) -> None:
        order = self.order
        self.show_command(command_line(order.words()))
        self._name_preview(order)
        # What has no part in the question must not undo an answer that is under way.
        asked = [order.table, *order.question()]
        if order.mapping and not self._missing(order) and asked != self._asked:
            self._asked = asked
            self._preview(order, False)

    def _missing(self, order: CatalogOrder) -> str:
        """What to do before anything can be asked; empty if nothing."""
        if not order.table:
            return "choose a table"
        if not order.model:
            return "choose a model"
        # Until the table is read, the mapping is not the user's to make.
        return "map a field to a column" if self._columns and not order.mapping else ""

    def _name_preview(self, order: CatalogOrder, name: str = "") -> None:
        """What the preview shows, ``name`` from now on, or what it waits for."""
        self._preview_name = name or self._preview_name
        missing = self._missing(order)
        title = f"Preview: {missing} first" if missing else self._preview_name
        self.query_one("#preview-pane").border_title = title

    def _show_prompt(self) -> None:
        index = chosen_row(self.query_one(PreviewTable))
        if index is not None and int(index) < len(self._rows):
            row = self._rows[int(index)]
            self.query_one("#prompt", Static).update(
                row.get("prompt") or row.get("error") or ""
            )

    def _complain(self, sentence: str) -> None:
        self.query_one(Problem).show(sentence)

    @work(thread=True, exclusive=True, group="table")
    def _read_table(self, table: str, task: str) -> None:
        time.sleep(SETTLE_S)
        if not table or get_current_worker().is_cancelled:
            return
        value, problem = child.ask(["catalog", "show", table, "--task", task, "--json"])
        if not get_current_worker().is_cancelled:
            self.post_message(TableRead(value, problem))

    @work(thread=True, exclusive=True, group="preview")
    def _preview(self, order: CatalogOrder, answers: bool) -> None:
        if not answers:
            time.sleep(SETTLE_S)
        if get_current_worker().is_cancelled:
            return
        words = ["catalog", "preview", order.table, *order.question()]
        words += ["--limit", str(PREVIEW_ROWS), "--answers" if answers else "--no-answers"]
        value, problem = child.ask([*words, "--json"])
        if not get_current_worker().is_cancelled:
            self.post_message(PreviewRead(value, problem, answers))

    @work(thread=True, group="start")
    def _start(self, order: CatalogOrder) -> None:
        try:
            run = order.create()
            process = jobs.start(run)
        except EcellmError as error:
            self.post_message(JobRefused(str(error)))
        except OSError as error:
            self.post_message(JobRefused(f"The job's process cannot be started: {error}."))
        else:
            self.post_message(JobStarted(run, process))


def _sample() -> Path:
    from ecellm_mlx import sample

    return sample.catalog()
