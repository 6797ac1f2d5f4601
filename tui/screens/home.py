"""Home: this machine, and the runs that are on it."""

from __future__ import annotations

from pathlib import Path

from rich.text import Text
from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import Vertical, VerticalScroll
from textual.content import Content
from textual.widgets import DataTable, OptionList, Static
from textual.worker import get_current_worker

from ecellm_mlx.errors import EcellmError
from ecellm_mlx.jobs import Control, RunDirectory, State
from tui import device, first_steps, formats, runs
from tui.cells import cell
from tui.device import Check, Diagnosis, Doctor, Machine
from tui.first_steps import STEPS
from tui.messages import (
    Asked,
    Diagnosed,
    MachineRead,
    PlaceWanted,
    RunChosen,
    RunsRead,
    StepsRead,
)
from tui.quick import QuickScreen
from tui.runs import RunSummary
from tui.widgets.facts import LABEL_WIDTH, MUTED, Facts
from tui.widgets.key_bar import KeyBar
from tui.widgets.nav import NavBar
from tui.widgets.table import Table

REFRESH_S = 2.0
NO_RUNS = (
    "No runs yet. Take the first steps, or run `ecellm train` in a shell: runs of both "
    "show up here."
)
STATE_COLOURS = {
    State.STARTING: "text-accent",
    State.RUNNING: "text-success",
    State.PAUSED: "text-warning",
    State.STOPPED: "text-warning",
    State.FINISHED: "text-primary",
    State.FAILED: "text-error",
}


class RunTable(Table):
    """The runs; Enter or a click opens one."""

    BINDINGS = [Binding("enter", "select_cursor", "Open run", id="home.open")]


class FirstSteps(OptionList):
    """The steps to a first result; Enter or a click goes where one is taken."""

    BINDINGS = [Binding("enter", "select", "Go there", id="home.step")]


class HomeScreen(QuickScreen):
    """Device, memory, first steps, recent runs."""

    HELP = """
    Home shows this machine and the runs in the workspace, live ones first.

    A run is a process of its own: it goes on when this program or the terminal is
    closed. Open it from the list to see it live, pause it or stop it. The list reads
    the disk every two seconds, so runs that were started in a shell show up as well.
    """
    BINDINGS = [
        Binding("n", "app.go('train')", "New run", id="home.new", tooltip="Set up a new run"),
        Binding("d", "diagnose", "Check device", id="home.diagnose", tooltip="Run the doctor"),
        Binding("x", "stop", "Stop run", id="home.stop", tooltip="Save a checkpoint and stop"),
        Binding("y", "copy", "Copy command", id="home.copy", tooltip="Copy `ecellm watch RUN`"),
    ]
    AUTO_FOCUS = "#steps"

    def __init__(self) -> None:
        super().__init__()
        self._doctor: Doctor | None = None
        self._shown: list[RunSummary] = []
        self._done: set[str] = set()
        self._focused_once = False

    def compose(self) -> ComposeResult:
        """Machine beside or above the runs."""
        yield NavBar("home")
        with VerticalScroll(id="home-body", can_focus=False):
            with VerticalScroll(id="machine", classes="pane", can_focus=False) as pane:
                pane.border_title = "This machine"
                pane.border_subtitle = "d check again"
                yield Facts(columns=1, id="memory")
                yield Static("Asking MLX about the device …", id="doctor", markup=False)
            with Vertical(id="home-right"):
                with VerticalScroll(id="first", classes="pane", can_focus=False) as pane:
                    pane.border_title = "First steps"
                    pane.border_subtitle = "enter go there"
                    yield FirstSteps(*(step.title for step in STEPS), id="steps", markup=False)
                with VerticalScroll(id="recent", classes="pane", can_focus=False) as pane:
                    pane.border_title = "Runs"
                    pane.border_subtitle = "enter open · n new · x stop · y copy"
                    yield Static(NO_RUNS, id="no-runs", markup=False)
                    table = RunTable(id="runs", cursor_type="row")
                    table.display = False
                    yield table
        yield KeyBar()

    def on_mount(self) -> None:
        """Start reading."""
        table = self.query_one(RunTable)
        for name in ("Run", "State", "Step", "Model", "Age"):
            table.add_column(name, key=name)
        self.set_interval(REFRESH_S, self._refresh_all)
        self.action_diagnose()

    def on_screen_resume(self) -> None:
        """Show the newest when the user comes back."""
        self.call_after_refresh(self._refresh_all)

    def on_unmount(self) -> None:
        """Do not wait for the doctor when the app closes."""
        if self._doctor:
            self._doctor.end()

    def action_diagnose(self) -> None:
        """Ask the doctor."""
        if self._doctor is None:
            self._doctor = Doctor()
            self._await_doctor(self._doctor)

    def action_stop(self) -> None:
        """Ask the run under the cursor to save a checkpoint and stop."""
        if run := self._under_cursor():
            self._ask_to_stop(run.path)

    def action_copy(self) -> None:
        """Copy the command that watches the run under the cursor."""
        if run := self._under_cursor():
            self.app.copy_to_clipboard(f"ecellm watch {run.name}")
            self.notify(f"`ecellm watch {run.name}` was copied.", timeout=3, markup=False)

    @on(MachineRead)
    def _draw_machine(self, event: MachineRead) -> None:
        machine: Machine = event.machine
        self.query_one("#memory", Facts).show(
            [
                (
                    "memory",
                    f"{machine.memory_available_gb:.1f} of {machine.memory_gb:.1f} GiB free",
                ),
                ("disk", f"{machine.disk_free_gb:,.0f} GiB free"),
                ("workspace", str(machine.home)),
            ]
        )

    @on(Diagnosed)
    def _draw_diagnosis(self, event: Diagnosed) -> None:
        self._doctor = None
        self.query_one("#doctor", Static).update(_diagnosis_text(event.diagnosis))

    @on(RunsRead)
    def _draw_runs(self, event: RunsRead) -> None:
        if event.problem:
            self.query_one("#recent").border_title = Content(f"Runs: {event.problem}")
            return
        live = sum(run.state.live for run in event.runs)
        self.query_one("#recent").border_title = f"Runs, {live} live" if live else "Runs"
        table = self.query_one(RunTable)
        had_focus = table.has_focus or self.focused is None
        self.set_class(bool(event.runs), "-has-runs")
        table.display = bool(event.runs)
        self.query_one("#no-runs").display = not event.runs
        chosen = self._shown[table.cursor_row].path if self._shown else None
        if [run.path for run in event.runs] != [run.path for run in self._shown]:
            table.clear()
            for run in event.runs:
                table.add_row(*self._cells(run), key=str(run.path))
            paths = [run.path for run in event.runs]
            if chosen in paths:
                table.move_cursor(row=paths.index(chosen))
        else:
            for run in event.runs:
                for column, cell in zip(table.columns, self._cells(run), strict=True):
                    table.update_cell(str(run.path), column, cell)
        self._shown = event.runs
        if event.runs and had_focus and self.is_current and not table.has_focus:
            table.focus(scroll_visible=False)
        if not self._focused_once and self.is_current and event.runs:
            # Runs that are there come before steps that are left.
            self._focused_once = True
            table.focus(scroll_visible=False)

    @on(DataTable.RowSelected)
    def _row_selected(self, event: DataTable.RowSelected) -> None:
        event.stop()
        self.post_message(RunChosen(Path(str(event.row_key.value))))

    @on(StepsRead)
    def _draw_steps(self, event: StepsRead) -> None:
        steps = self.query_one(FirstSteps)
        for index, step in enumerate(STEPS):
            done = step.key in event.done
            mark = Content.styled("✓ ", "$text-success") if done else Content("○ ")
            words = Content.styled(step.title, MUTED) if done else Content(step.title)
            steps.replace_option_prompt_at_index(index, mark + words)
        left = [n for n, step in enumerate(STEPS) if step.key not in event.done]
        if event.done != self._done:
            steps.highlighted = left[0] if left else None
        self._done = event.done
        title = f"First steps, {len(event.done)} of {len(STEPS)} done"
        self.query_one("#first").border_title = title
        self.set_class(not left, "-steps-done")

    @on(OptionList.OptionSelected)
    def _step_chosen(self, event: OptionList.OptionSelected) -> None:
        event.stop()
        step = STEPS[event.option_index]
        self.post_message(PlaceWanted(step.mode, step.values))

    @on(Asked)
    def _asked(self, event: Asked) -> None:
        if event.problem:
            self.notify(event.problem, severity="error", markup=False)
        else:
            self.notify("Asked the job to save a checkpoint and stop.", timeout=3)

    def _under_cursor(self) -> RunSummary | None:
        return self._shown[self.query_one(RunTable).cursor_row] if self._shown else None

    def _cells(self, run: RunSummary) -> list[Text]:
        return [
            cell(run.name),
            cell(run.state, self.app, STATE_COLOURS[run.state]),
            cell(formats.steps(run.step, run.total_steps)),
            cell(run.model),
            cell(formats.age(run.age_s)),
        ]

    def _refresh_all(self) -> None:
        if self.is_current:
            self._read_all()

    @work(thread=True, exclusive=True, group="home")
    def _read_all(self) -> None:
        message = RunsRead([])
        try:
            self.post_message(MachineRead(device.machine()))
            listed = runs.listing()
            message = RunsRead(listed)
            self.post_message(StepsRead(self._steps_done(listed)))
        except OSError as error:
            message = RunsRead([], str(error))
        if not get_current_worker().is_cancelled:
            self.post_message(message)

    def _steps_done(self, listed: list[RunSummary]) -> set[str]:
        from ecellm_mlx.models import registry

        models = [model for model in registry.installed() if not model.problem]
        return first_steps.done(len(models), listed, getattr(self.app, "seen", []))

    @work(thread=True, group="ask")
    def _ask_to_stop(self, path: Path) -> None:
        try:
            RunDirectory(path).request(Control.STOP)
        except EcellmError as error:
            self.post_message(Asked(Control.STOP, str(error)))
        else:
            self.post_message(Asked(Control.STOP))

    @work(thread=True, group="doctor")
    def _await_doctor(self, doctor: Doctor) -> None:
        self.post_message(Diagnosed(doctor.diagnosis()))


def _diagnosis_text(diagnosis: Diagnosis) -> Content:
    if diagnosis.problem:
        return Content.styled(diagnosis.problem, "$text-error")
    lines = [
        Content.styled(name.ljust(LABEL_WIDTH), MUTED) + Content.styled(value, "bold")
        for name, value in diagnosis.facts
    ]
    # What wants attention comes first: a small screen shows the first lines only.
    lines += [_check_line(check) for check in diagnosis.checks if check.status != "ok"]
    if fine := sum(check.status == "ok" for check in diagnosis.checks):
        words = "1 check is fine" if fine == 1 else f"{fine} checks are fine"
        lines.append(Content.styled(f"✓ {words}", "$text-success"))
    return Content("\n").join(lines)


def _check_line(check: Check) -> Content:
    mark, style = ("✗", "$text-error") if check.status == "fail" else ("!", "$text-warning")
    words = f"{mark} {check.name}: {check.detail}"
    return Content.styled(words, style) + Content(f"; {check.cure}" if check.cure else "")
