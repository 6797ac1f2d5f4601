"""One run, live: it reads what the job writes and asks it for things.

Leaving this screen changes nothing for the job. It may be opened for a run that
anyone started, at any time, also after its end.
"""

from __future__ import annotations

import threading

from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import Horizontal, VerticalScroll
from textual.content import Content
from textual.screen import Screen
from textual.widgets import Button, Footer, ProgressBar, Static

from ecellm_mlx import jobs
from ecellm_mlx.errors import EcellmError, JobError
from ecellm_mlx.jobs import Control, RunDirectory, State
from tui import formats
from tui.follow import Follower
from tui.history import RunView
from tui.messages import Asked, JobResumed, RunLogged, RunRead
from tui.widgets.event_log import EventLog
from tui.widgets.facts import Facts
from tui.widgets.nav import NavBar

POLL_S = 0.5
RESUMABLE = (State.STOPPED, State.FAILED)
STYLES = {
    State.STARTING: "$text-accent",
    State.RUNNING: "$text-success",
    State.PAUSED: "$text-warning",
    State.STOPPED: "$text-warning",
    State.FINISHED: "$text-primary",
    State.FAILED: "$text-error",
}


class RunScreen(Screen[None]):
    """State, curves, numbers, log; pause, checkpoint, stop, resume."""

    HELP = """
    This screen shows one run as it goes. Leaving it, or leaving ecellm, does not
    touch the job.

    Pause saves a checkpoint and waits. Stop saves a checkpoint and ends the process;
    the run can be resumed later, here or with `ecellm resume`, and then goes on as
    if it had not been stopped. Orders are taken at the end of the current step.
    """
    BINDINGS = [
        Binding("p", "pause", "Pause", id="run.pause", tooltip="Pause the job, or go on"),
        Binding("c", "checkpoint", "Checkpoint", id="run.checkpoint", tooltip="Save now"),
        Binding("s", "stop", "Stop", id="run.stop", tooltip="Save a checkpoint and stop"),
        Binding("r", "resume", "Resume", id="run.resume", tooltip="Start it again"),
        Binding("l", "log_scale", "Log scale", id="run.log-scale", tooltip="Loss axis"),
        Binding("y", "copy_path", "Copy path", show=False, id="run.copy-path"),
        Binding("escape", "back", "Back", show=False, id="run.back"),
    ]
    AUTO_FOCUS = ""

    def __init__(self, run: RunDirectory) -> None:
        super().__init__()
        self.run = run
        self.view = RunView()
        self.log_scale = False
        self._left = threading.Event()

    def compose(self) -> ComposeResult:
        """Status on top, curves and numbers, log, orders."""
        from tui.widgets.loss_plot import LossPlot

        yield NavBar("")
        with VerticalScroll(id="run-body", can_focus=False):
            with VerticalScroll(id="status", classes="pane", can_focus=False) as pane:
                pane.border_title = Content(self.run.path.name)
                pane.border_subtitle = "esc back"
                yield Static(id="state")
                yield ProgressBar(id="progress", show_eta=False)
                yield Static(id="banner", markup=False)
            with VerticalScroll(id="curves", classes="pane", can_focus=False) as pane:
                pane.border_subtitle = "l log scale"
                yield LossPlot(id="loss")
            with VerticalScroll(id="numbers", classes="pane", can_focus=False) as pane:
                pane.border_title = "Numbers"
                yield Facts(id="facts")
            with VerticalScroll(id="story", classes="pane", can_focus=False) as pane:
                pane.border_title = "Log"
                pane.border_subtitle = "↑↓ scroll · end follow"
                yield EventLog()
        with Horizontal(id="orders", classes="buttons"):
            yield Button("p Pause", id="pause", action="screen.pause", compact=True)
            yield Button("c Checkpoint", action="screen.checkpoint", compact=True)
            yield Button("s Stop", action="screen.stop", variant="error", compact=True)
            yield Button("r Resume", action="screen.resume", compact=True)
        yield Footer(compact=True)

    def on_mount(self) -> None:
        """Start to follow the run."""
        # The log takes the arrow keys; on a small screen the top stays in sight.
        self.set_focus(self.query_one(EventLog), scroll_visible=False)
        self._draw()
        self._follow()

    def on_unmount(self) -> None:
        """Let the following thread end at once."""
        self._left.set()

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Orders are dimmed while there is no job to take them."""
        state, readable = self.view.state, not self.view.problem
        if action in ("pause", "checkpoint", "stop"):
            return (state.live and readable) or None
        if action == "resume":
            return (state in RESUMABLE and readable and self.view.kind == "train") or None
        return True

    def action_back(self) -> None:
        """Go back to where the run was opened from."""
        self.dismiss()

    def action_pause(self) -> None:
        """Pause a running job; let a paused one go on."""
        paused = self.view.state is State.PAUSED
        self._ask(Control.RESUME if paused else Control.PAUSE)

    def action_checkpoint(self) -> None:
        """Save a checkpoint at the end of the step."""
        self._ask(Control.CHECKPOINT)

    def action_stop(self) -> None:
        """Save a checkpoint and stop."""
        self._ask(Control.STOP)

    def action_resume(self) -> None:
        """Start a process for a run that stopped or failed."""
        self._start_again()

    def action_log_scale(self) -> None:
        """Switch the loss axis between linear and logarithmic."""
        self.log_scale = not self.log_scale
        self._draw_curves()

    def action_copy_path(self) -> None:
        """Copy the run's folder."""
        self.app.copy_to_clipboard(str(self.run.path))
        self.notify("The path of the run was copied.")

    @on(RunRead)
    def _run_read(self, event: RunRead) -> None:
        self.view = event.view
        self._draw()
        self._draw_curves()
        self.refresh_bindings()

    @on(RunLogged)
    def _run_logged(self, event: RunLogged) -> None:
        self.query_one(EventLog).add(event.lines)

    @on(Asked)
    def _asked(self, event: Asked) -> None:
        if event.problem:
            self.notify(event.problem, severity="error", markup=False)
        else:
            when = "" if event.word == Control.RESUME else " It obeys at the end of the step."
            self.notify(f"Asked the job to {event.word}.{when}", timeout=3)

    @on(JobResumed)
    def _resumed(self) -> None:
        self.notify("A new process takes up the run.")

    def _draw(self) -> None:
        view = self.view
        words = [Content.styled(f"● {view.state}", f"bold {STYLES[view.state]}")]
        words.append(Content(f"{view.unit} {formats.steps(view.step, view.total_steps)}"))
        if view.eta_s is not None:
            words.append(Content(f"{formats.duration(view.eta_s)} to go"))
        elif view.state is State.RUNNING and view.step >= view.total_steps > 0:
            words.append(Content("validating and saving"))
        if view.pending:
            words.append(Content.styled(f"{view.pending} asked for", "$text-warning"))
        self.query_one("#state", Static).update(Content("  ·  ").join(words))
        bar = self.query_one(ProgressBar)
        bar.update(total=view.total_steps or None, progress=view.step)
        banner = self._banner()
        self.query_one("#banner", Static).update(banner)
        self.set_class(bool(banner), "-banner")
        self.set_class(view.state is State.FAILED or bool(view.problem), "-failed")
        self.set_class(view.kind not in ("", "train"), "-no-curves")
        self.query_one("#facts", Facts).show(self._facts())
        pause = self.query_one("#pause", Button)
        pause.label = "p Go on" if view.state is State.PAUSED else "p Pause"
        for button in self.query("#orders Button").results(Button):
            action = (button.action or "").removeprefix("screen.")
            button.disabled = not self.check_action(action, ())

    def _banner(self) -> str:
        view = self.view
        if view.problem:
            return view.problem
        if view.state is State.FAILED:
            log = str(self.run.log_file)
            known = view.message or "the job failed"
            return known if log in known else f"{known}\nThe log is in {log}"
        if view.state is State.STOPPED:
            return f"Stopped; press r to resume, or run `ecellm resume {self.run.path.name}`."
        if view.state is State.FINISHED and view.kind == "train":
            return f"The adapter is in {self.run.path / 'adapter'}"
        if view.state is State.STARTING:
            return "The job is loading the model and the data."
        return ""

    def _facts(self) -> list[tuple[str, str]]:
        view, number = self.view, formats.number
        memory = view.peak_memory_gb
        best = min(view.validation.values, default=None)
        return [
            ("loss", number(view.train.last)),
            ("val. loss", number(view.validation.last)),
            ("best val.", number(best)),
            ("lr", number(view.learning_rate, 3)),
            ("tokens/s", number(view.tokens_per_second, 3)),
            ("rows/s", number(view.rows_per_second, 3)),
            ("peak mem.", "–" if memory is None else f"{memory:.2f} GiB"),
            ("grad norm", number(view.grad_norm, 3)),
        ]

    def _draw_curves(self) -> None:
        from tui.widgets.loss_plot import LossPlot

        curves = self.view.train, self.view.validation
        self.query_one(LossPlot).show(*curves, log=self.log_scale)
        scale = ", log scale" if self.log_scale else ""
        empty = "" if self.view.train.steps else "  no step yet"
        self.query_one("#curves").border_title = Content.from_markup(
            f"Loss{scale}  [$text-primary]⠒⠒ train[/] [$text-warning]● validation[/]{empty}"
        )

    @work(thread=True, exclusive=True, group="follow")
    def _follow(self) -> None:
        follower, last = Follower(self.run), None
        while True:
            view, lines = follower.look()
            if lines:
                self.post_message(RunLogged(lines))
            if view != last:
                self.post_message(RunRead(view))
                last = view
            if self._left.wait(POLL_S):
                return

    @work(thread=True, group="ask")
    def _ask(self, word: Control) -> None:
        try:
            self.run.request(word)
        except EcellmError as error:
            self.post_message(Asked(word, str(error)))
        else:
            self.post_message(Asked(word))

    @work(thread=True, exclusive=True, group="resume")
    def _start_again(self) -> None:
        try:
            if self.run.status().state.live:
                raise JobError(f"{self.run.path} is running already")
            # An order to the process that is gone is none to the next.
            self.run.take_request()
            process = jobs.start(self.run)
        except EcellmError as error:
            self.post_message(Asked("resume", str(error)))
        else:
            self.post_message(JobResumed(process))
