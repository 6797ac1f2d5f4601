"""Evaluate: base, adapter and a second adapter on the same rows, side by side.

Each column is an evaluation run on disk: one that was done before is shown, what is
missing is computed, one job after the other.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.text import Text
from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import Horizontal, Vertical
from textual.message import Message
from textual.widgets import Button, DataTable, Input, Label, Static
from textual.worker import get_current_worker

from ecellm_mlx import jobs
from ecellm_mlx.errors import EcellmError
from ecellm_mlx.evaluation.settings import EvaluationSettings
from ecellm_mlx.inference.protocol import Decoding
from ecellm_mlx.jobs import RunDirectory, State
from ecellm_mlx.tasks.registry import TASKS, find
from tui import child, evaluations, formats, on_disk
from tui.cells import BAD, GOOD, cell
from tui.child import command_line
from tui.dialog import Field
from tui.evaluations import Line, Miss
from tui.messages import (
    ComparisonRead,
    EvaluationsRead,
    JobRefused,
    JobResumed,
    MissesRead,
    Progressed,
)
from tui.on_disk import Options
from tui.screens.base import PlaceScreen
from tui.screens.miss import MissDialog
from tui.widgets.activity import Activity
from tui.widgets.choice import Choice
from tui.widgets.cycle import Cycle
from tui.widgets.model_choices import AdapterChoice, ModelChoice
from tui.widgets.problem import Problem
from tui.widgets.table import Table

SIDES = ("Base", "Adapter", "Second")
POLL_S = 0.5
MODES = ("official", "strict")


class ScoreTable(Table):
    """Tasks and their scores; Enter opens the rows that were answered otherwise."""

    BINDINGS = [Binding("enter", "select_cursor", "Error rows", id="evaluate.errors")]


class MissTable(Table):
    """Rows that were answered otherwise; Enter shows one whole."""

    BINDINGS = [Binding("enter", "select_cursor", "Show row", id="evaluate.row")]


class EvaluateScreen(PlaceScreen):
    """A form, a table of scores, and the rows behind one of them."""

    PLACE = "evaluate"
    PRESET = ("model", "adapter", "data")
    HELP = """
    Evaluate answers rows whose answers are known, with the base and with one or two
    adapters, and compares. An evaluation that was done before is not done again.

    Metrics come twice. Official is what the published script computes: it drops invalid
    answers. Strict counts them as wrong. The interval is that of the difference to the
    base, from resampling the same rows; where it holds 0, the difference may be chance.
    A subset's figures are not comparable with the paper's.
    """
    BINDINGS = [
        Binding("ctrl+r", "start", "Evaluate", id="evaluate.start", priority=True),
        Binding("ctrl+t", "mode", "Official/strict", id="evaluate.mode"),
        Binding("ctrl+e", "export", "Export report", id="evaluate.export", priority=True),
        Binding("ctrl+x", "stop", "Stop", show=False, id="evaluate.stop", priority=True),
    ]
    AUTO_FOCUS = "#model Select"

    def __init__(self) -> None:
        super().__init__()
        self.runs: list[RunDirectory | None] = []
        self.lines: list[Line] = []
        self.mode = "official"
        self._differences: dict[int, dict[str, Any]] = {}
        self._misses: list[Miss] = []
        self._stop = threading.Event()
        self._evaluating = False
        self._live: RunDirectory | None = None

    def body(self) -> ComposeResult:
        """What is evaluated, the scores, the rows."""
        with (
            Vertical(classes="column -left"),
            Vertical(id="eval-form", classes="pane") as pane,
        ):
            pane.border_title = "Evaluate"
            pane.border_subtitle = "^r evaluate · ^x stop"
            yield ModelChoice()
            yield AdapterChoice(none="none")
            yield AdapterChoice("Second", id="second", none="none")
            yield Choice(
                "Rows",
                id="data",
                prompt="choose rows",
                other="a file …",
                placeholder="file.jsonl with answers",
            )
            with Horizontal(classes="choice-row"):
                yield Label("Tasks", classes="choice-label")
                yield Input(placeholder="all, or PM,SA,…", id="tasks", compact=True)
                yield Label("Limit", classes="choice-label")
                yield Input("60", placeholder="all", id="limit", type="integer", compact=True)
            with Horizontal(classes="choice-row"):
                yield Label("Answers", classes="choice-label")
                yield Cycle(tuple(map(str, Decoding)), str(Decoding.VALID))
            yield Problem(id="eval-problem")
            yield Static(id="eval-progress", markup=False)
            with Horizontal(classes="buttons"):
                yield Button(
                    "^r Evaluate", variant="primary", action="screen.start", compact=True
                )
                yield Button("^x Stop", action="screen.stop", compact=True)
        with Vertical(classes="column -right"):
            with Vertical(id="scores-pane", classes="pane") as pane:
                pane.border_title = "Scores"
                pane.border_subtitle = "enter error rows · ^t official/strict · ^e export"
                yield ScoreTable(id="scores", cursor_type="row")
            with Vertical(id="misses-pane", classes="pane") as pane:
                pane.border_title = "Rows answered otherwise"
                pane.border_subtitle = "enter show"
                yield MissTable(id="misses", cursor_type="row")
            yield Activity()

    def on_mount(self) -> None:
        """Make the tables."""
        for name in ("Row", "Expected", *SIDES, "Sure"):
            self.query_one(MissTable).add_column(name, key=name)
        self._edited()

    def look(self) -> None:
        """An adapter or an evaluation may be there by now."""
        self.read_options()
        self._read_runs(self.orders)

    def on_unmount(self) -> None:
        """The queue ends; a job that runs goes on by itself."""
        super().on_unmount()
        self._stop.set()

    def options(self) -> dict[str, Options]:
        """Models, adapters and files of rows, those for tests first."""
        adapters = on_disk.adapter_options()
        return {
            "model": on_disk.models(),
            "adapter": adapters,
            "second": adapters,
            "data": sorted(on_disk.row_files(), key=lambda option: "test" not in option[0]),
        }

    @property
    def orders(self) -> list[EvaluationSettings]:
        """One for each column that the form asks for: the base, then the adapters."""
        limit = self.query_one("#limit", Input).value
        named = self.query_one("#tasks", Input).value.split(",")
        tasks = tuple(task.strip() for task in named if task.strip())
        adapters = [self.query_one(f"#{n}", Choice).value or "" for n in ("adapter", "second")]
        decoding = Decoding(self.query_one(Cycle).value)
        return [
            EvaluationSettings(
                model=self.query_one("#model", Choice).value or "",
                data=Path(self.query_one("#data", Choice).value or ""),
                adapter=adapter,
                tasks=tasks,
                limit=int(limit) if limit.isdigit() and int(limit) else None,
                decodings=() if decoding is Decoding.VALID else (decoding,),
            )
            for adapter in [None, *(a for a in adapters if a)]
        ]

    def action_start(self) -> None:
        """Compute what is missing."""
        if self._evaluating:
            return
        orders = self.orders
        if not orders[0].model or not orders[0].data.name:
            self._complain("Choose a model and a file of rows.")
            return
        self._complain("")
        self._evaluating = True
        self._stop.clear()
        self._evaluate(orders)

    def action_stop(self) -> None:
        """Stop the evaluation that runs, and start no other; or end the command."""
        self.action_end_command()
        self._stop.set()
        if self._live:
            self._ask_to_stop(self._live)

    def action_mode(self) -> None:
        """Switch between the published metric and the strict one."""
        self.mode = MODES[1 - MODES.index(self.mode)]
        self._read_runs(self.orders)

    def action_export(self) -> None:
        """Write a report of the evaluations that are shown."""
        shown = [run for run in self.runs if run]
        if not shown:
            self.notify("There is nothing to export yet: ^r evaluates.", severity="warning")
            return
        self.ask_command(
            "Export the report",
            "Writes report.html and report.md with all figures, intervals and error rows.",
            [Field("out", "Folder", "report")],
            lambda v: ["report", *(run.path.name for run in shown), "--out", v["out"]],
        )

    @on(Choice.Changed)
    @on(Input.Changed)
    @on(Cycle.Changed)
    def _changed(self, event: Message) -> None:
        event.stop()
        self._edited()

    @on(EvaluationsRead)
    def _evaluations_read(self, event: EvaluationsRead) -> None:
        self.runs, self.lines = event.runs, event.lines
        self._differences = {}
        self._draw_scores()
        base = self.runs[0] if self.runs else None
        for column, run in enumerate(self.runs[1:], 1):
            if base and run:
                self._compare(column, base, run, str(self.orders[0].data))

    @on(ComparisonRead)
    def _comparison_read(self, event: ComparisonRead) -> None:
        if event.problem:
            self.notify(event.problem, severity="warning", markup=False)
            return
        self._differences[event.column] = event.value
        self._draw_scores()

    @on(Progressed)
    def _progressed(self, event: Progressed) -> None:
        self._live = event.run
        self._evaluating = event.run is not None
        self.query_one("#eval-progress", Static).update(event.words)
        if event.process:
            self.app.post_message(JobResumed(event.process))
        if event.run is None:
            self._read_runs(self.orders)

    @on(JobRefused)
    def _job_refused(self, event: JobRefused) -> None:
        event.stop()
        self._evaluating, self._live = False, None
        self.query_one("#eval-progress", Static).update("")
        self._complain(event.sentence)

    @on(DataTable.RowSelected, "#scores")
    def _score_selected(self, event: DataTable.RowSelected) -> None:
        event.stop()
        line = self.lines[event.cursor_row]
        self.query_one("#misses-pane").border_title = f"Rows of {line.task} …"
        self._read_misses(list(self.runs), self.orders[0].data, line.task)

    @on(MissesRead)
    def _misses_read(self, event: MissesRead) -> None:
        self._misses = event.misses
        table = self.query_one(MissTable)
        table.fill((str(n), self._miss_cells(miss)) for n, miss in enumerate(event.misses))
        title = f"Rows of {event.task} answered otherwise, {len(event.misses)}"
        self.query_one("#misses-pane").border_title = event.problem or title
        if event.misses:
            table.focus()

    @on(DataTable.RowSelected, "#misses")
    def _miss_selected(self, event: DataTable.RowSelected) -> None:
        event.stop()
        self.app.push_screen(MissDialog(self._misses[event.cursor_row], SIDES))

    def _miss_cells(self, miss: Miss) -> list[Text]:
        given = [*miss.answers, None, None][: len(SIDES)]
        return [
            cell(miss.id),
            cell(miss.expected[:30]),
            *(self._answer_cell(text, miss.expected) for text in given),
            cell("" if miss.probability is None else f"{miss.probability:.2f}"),
        ]

    def _answer_cell(self, text: str | None, expected: str) -> Text:
        if text is None:
            return cell("–")
        right = text.strip() == expected.strip()
        return cell(f"{'✓' if right else '≠'} {text[:30]}", self.app, GOOD if right else BAD)

    def _edited(self) -> None:
        orders = self.orders
        self.show_command(command_line(evaluations.words(orders[min(1, len(orders) - 1)])))
        unknown = [t for t in orders[0].tasks if not _known(t)]
        known = ", ".join(task.short for task in TASKS.values())
        if unknown:
            self._complain(f"There is no task {unknown[0]!r}; there are {known}.")
        else:
            self._complain("")
            self._read_runs(orders)

    def _complain(self, sentence: str) -> None:
        self.query_one(Problem).show(sentence)

    def _draw_scores(self) -> None:
        table = self.query_one(ScoreTable)
        cursor = table.cursor_row
        table.clear(columns=True)
        sides = SIDES[: max(1, len(self.runs))]
        columns = ["Task", "Setting", "n", "Metric", sides[0]]
        for side in sides[1:]:
            columns += [side, "Δ", "95%"]
        for name in (*columns, "#invalid"):
            table.add_column(name)
        for line in self.lines:
            cells = [
                cell(_short(line.task)),
                cell(_short_setting(line.setting)),
                cell(str(line.n)),
                cell(line.metric),
                cell(_score(line.values[0])),
            ]
            for column in range(1, len(self.runs)):
                cells += self._difference_cells(line, column)
            invalid = "/".join("–" if i is None else str(i) for i in line.invalid)
            table.add_row(*cells, cell(invalid))
        table.move_cursor(row=min(cursor, max(0, table.row_count - 1)))
        title = f"Scores, {self.mode}"
        if not self.lines:
            title = "Scores: none yet, ^r evaluates"
        elif self.orders[0].limit:
            title += ", a subset: not comparable with the paper"
        self.query_one("#scores-pane").border_title = title

    def _difference_cells(self, line: Line, column: int) -> list[Text]:
        base, value = line.values[0], line.values[column]
        difference = (
            self._differences.get(column, {}).get(line.task, {}).get(line.setting) or {}
        )
        values = difference.get(self.mode) or {}
        if base is None or value is None:
            return [cell(_score(value)), cell("–"), cell("")]
        delta = value - base
        mark = "▲" if delta > 0 else "▼" if delta < 0 else "="
        colour = GOOD if delta > 0 else BAD if delta < 0 else ""
        interval = f"{values['low']:+.3f} … {values['high']:+.3f}" if values else "…"
        return [
            cell(_score(value)),
            cell(f"{mark} {delta:+.3f}", self.app, colour),
            cell(interval),
        ]

    @work(thread=True, exclusive=True, group="runs")
    def _read_runs(self, orders: Sequence[EvaluationSettings]) -> None:
        runs = [evaluations.find(order) for order in orders]
        lines = evaluations.lines(runs, self.mode)
        if not get_current_worker().is_cancelled:
            self.post_message(EvaluationsRead(runs, lines))

    @work(thread=True, group="compare")
    def _compare(self, column: int, a: RunDirectory, b: RunDirectory, data: str) -> None:
        words = ["compare", str(a.path), str(b.path), "--labels", data, "--json"]
        value, problem = child.ask(words)
        if self.runs[:1] == [a] and column < len(self.runs) and self.runs[column] == b:
            self.post_message(ComparisonRead(column, value, problem))

    @work(thread=True, exclusive=True, group="misses")
    def _read_misses(self, runs: list[RunDirectory | None], data: Path, task: str) -> None:
        try:
            self.post_message(MissesRead(task, evaluations.misses(runs, data, task)))
        except (EcellmError, OSError) as error:
            self.post_message(MissesRead(task, [], str(error)))

    @work(thread=True, group="evaluate")
    def _evaluate(self, orders: Sequence[EvaluationSettings]) -> None:
        for number, order in enumerate(orders, 1):
            if self._stop.is_set() or evaluations.find(order):
                continue
            try:
                run, process = evaluations.find_live(order), None
                if run is None:
                    run = evaluations.create(order)
                    process = jobs.start(run)
            except (EcellmError, OSError) as error:
                self.post_message(JobRefused(str(error)))
                return
            side = f"{SIDES[number - 1]}, {number} of {len(orders)}"
            self.post_message(Progressed(run, f"▶ {side}: loading the model", process))
            state = self._wait_for(run, side)
            if state is State.FAILED:
                self.post_message(JobRefused(f"{side}: {run.status().message}"))
                return
        self.post_message(Progressed(None, ""))

    def _wait_for(self, run: RunDirectory, side: str) -> State:
        while True:
            status = run.status()
            if not status.state.live:
                return status.state
            if status.step:
                done = formats.steps(status.step, status.total_steps)
                self.post_message(Progressed(run, f"▶ {side}: {done} answers"))
            if self._stop.wait(POLL_S) and not self.is_running:
                return status.state
            if self._stop.is_set():
                # The job ends at its next batch; there is nothing else to wait for.
                return State.STOPPED

    @work(thread=True, group="ask")
    def _ask_to_stop(self, run: RunDirectory) -> None:
        try:
            run.request(jobs.Control.STOP)
        except EcellmError as error:
            self.app.call_from_thread(self.notify, str(error), severity="error", markup=False)


def _known(task: str) -> bool:
    try:
        find(task)
    except EcellmError:
        return False
    return True


def _short(task: str) -> str:
    return TASKS[task].short if task in TASKS else task


def _short_setting(setting: str) -> str:
    return setting.replace("_Instruction", "").replace("_", " ")


def _score(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
