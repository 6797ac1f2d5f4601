"""Home: this machine, and the runs that are on it."""

from __future__ import annotations

from pathlib import Path

from rich.style import Style
from rich.text import Text
from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding
from textual.color import Color
from textual.containers import VerticalScroll
from textual.content import Content
from textual.screen import Screen
from textual.widgets import DataTable, Footer, Static
from textual.worker import get_current_worker

from ecellm_mlx.jobs import State
from tui import device, formats, runs
from tui.device import Check, Diagnosis, Doctor, Machine
from tui.messages import Diagnosed, MachineRead, RunChosen, RunsRead
from tui.runs import RunSummary
from tui.widgets.facts import LABEL_WIDTH, MUTED, Facts
from tui.widgets.nav import NavBar

REFRESH_S = 2.0
NO_RUNS = (
    "No runs yet.\n\n"
    "Press F3 to set up a training run on the sample rows that come with ecellm, "
    "or run `ecellm train` in a shell: runs of both show up here."
)
STATE_COLOURS = {
    State.STARTING: "text-accent",
    State.RUNNING: "text-success",
    State.PAUSED: "text-warning",
    State.STOPPED: "text-warning",
    State.FINISHED: "text-primary",
    State.FAILED: "text-error",
}


class RunTable(DataTable[Text]):
    """The runs; Enter or a click opens one."""

    BINDINGS = [Binding("enter", "select_cursor", "Open run", id="home.open")]


class HomeScreen(Screen[None]):
    """Device, memory, recent runs."""

    HELP = """
    Home shows this machine and the runs in the workspace, live ones first.

    A run is a process of its own: it goes on when this program or the terminal is
    closed. Open it from the list to see it live, pause it or stop it. The list reads
    the disk every two seconds, so runs that were started in a shell show up as well.
    """
    BINDINGS = [
        Binding("n", "app.go('train')", "New run", id="home.new", tooltip="Set up a new run"),
        Binding("d", "diagnose", "Check device", id="home.diagnose", tooltip="Run the doctor"),
    ]
    AUTO_FOCUS = "#runs"

    def __init__(self) -> None:
        super().__init__()
        self._doctor: Doctor | None = None
        self._shown: list[RunSummary] = []

    def compose(self) -> ComposeResult:
        """Machine beside or above the runs."""
        yield NavBar("home")
        with VerticalScroll(id="home-body", can_focus=False):
            with VerticalScroll(id="machine", classes="pane", can_focus=False) as pane:
                pane.border_title = "This machine"
                pane.border_subtitle = "d check again"
                yield Facts(columns=1, id="memory")
                yield Static("Asking MLX about the device …", id="doctor", markup=False)
            with VerticalScroll(id="recent", classes="pane", can_focus=False) as pane:
                pane.border_title = "Runs"
                pane.border_subtitle = "enter open · n new"
                yield Static(NO_RUNS, id="no-runs", markup=False)
                table = RunTable(id="runs", cursor_type="row")
                table.display = False
                yield table
        yield Footer(compact=True)

    def on_mount(self) -> None:
        """Start reading."""
        table = self.query_one(RunTable)
        for name in ("Run", "State", "Step", "Model", "Age"):
            table.add_column(name, key=name)
        self.set_interval(REFRESH_S, self._refresh_all)
        self.action_diagnose()

    def on_screen_resume(self) -> None:
        """Show the newest when the user comes back."""
        self._refresh_all()

    def on_unmount(self) -> None:
        """Do not wait for the doctor when the app closes."""
        if self._doctor:
            self._doctor.end()

    def action_diagnose(self) -> None:
        """Ask the doctor."""
        if self._doctor is None:
            self._doctor = Doctor()
            self._await_doctor(self._doctor)

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
        if event.runs and had_focus and self.is_current:
            table.focus()

    @on(DataTable.RowSelected)
    def _row_selected(self, event: DataTable.RowSelected) -> None:
        event.stop()
        self.post_message(RunChosen(Path(str(event.row_key.value))))

    def _cells(self, run: RunSummary) -> list[Text]:
        colour = Color.parse(self.app.theme_variables[STATE_COLOURS[run.state]])
        return [
            Text(run.name),
            Text(run.state, style=Style(color=colour.rich_color)),
            Text(formats.steps(run.step, run.total_steps)),
            Text(run.model),
            Text(formats.age(run.age_s)),
        ]

    def _refresh_all(self) -> None:
        if self.is_current:
            self._read_all()

    @work(thread=True, exclusive=True, group="home")
    def _read_all(self) -> None:
        message = RunsRead([])
        try:
            self.post_message(MachineRead(device.machine()))
            message = RunsRead(runs.listing())
        except OSError as error:
            message = RunsRead([], str(error))
        if not get_current_worker().is_cancelled:
            self.post_message(message)

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
