"""One run, live: it reads what the job writes and asks it for things.

Leaving this screen changes nothing for the job. It may be opened for a run that
anyone started, at any time, also after its end.
"""

from __future__ import annotations

import contextlib
import threading
from pathlib import Path

import psutil
from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.content import Content
from textual.widgets import Button, ProgressBar, Static

from ecellm_mlx import jobs
from ecellm_mlx.errors import EcellmError, JobError
from ecellm_mlx.jobs import Control, RunDirectory, State
from tui import formats
from tui.follow import Follower
from tui.history import Curve, RunView
from tui.messages import Asked, JobResumed, OtherRead, PlaceWanted, RunLogged, RunRead
from tui.quick import QuickScreen
from tui.screens.picker import RunPicker
from tui.widgets.answer_pane import bar
from tui.widgets.event_log import EventLog
from tui.widgets.facts import MUTED, Facts
from tui.widgets.key_bar import KeyBar
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


class RunScreen(QuickScreen):
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
        Binding("x", "compare", "Compare", id="run.compare", tooltip="A second run's curves"),
        Binding("t", "samples", "Answers", id="run.samples", tooltip="Sample answers or log"),
        Binding("e", "evaluate", "Evaluate", show=False, id="run.evaluate"),
        Binding("g", "playground", "Try it", show=False, id="run.playground"),
        Binding("v", "review", "Review", show=False, id="run.review"),
        Binding("y", "copy_path", "Copy path", show=False, id="run.copy-path"),
        Binding("ctrl+y", "copy", "Copy command", show=False, id="run.copy", priority=True),
        Binding("escape", "back", "Back", show=False, id="run.back"),
    ]
    AUTO_FOCUS = ""

    def __init__(self, run: RunDirectory) -> None:
        super().__init__()
        self.run = run
        self.view = RunView()
        self.log_scale = False
        self.compared: RunView | None = None
        self.compared_name = ""
        self._other: Follower | None = None
        self._left = threading.Event()
        self._limit_gb = psutil.virtual_memory().total / 1024**3

    def compose(self) -> ComposeResult:
        """Status on top, curves and numbers, log, orders."""
        from tui.widgets.loss_plot import LossPlot

        yield NavBar("")
        with VerticalScroll(id="run-body", can_focus=False):
            with VerticalScroll(id="status", classes="pane", can_focus=False) as pane:
                pane.border_title = Content(self.run.path.name)
                pane.border_subtitle = f"^y ecellm watch {self.run.path.name} · esc back"
                yield Static(id="state")
                yield ProgressBar(id="progress", show_eta=False)
                yield Static(id="banner", markup=False)
            with Vertical(id="run-middle"):
                with VerticalScroll(id="curves", classes="pane", can_focus=False) as pane:
                    pane.border_subtitle = "l log scale · x compare"
                    yield LossPlot(id="loss")
                with VerticalScroll(id="confidence", classes="pane", can_focus=False) as pane:
                    pane.border_title = "Answers by confidence"
                    pane.border_subtitle = "v review"
                    yield Static(id="histogram", markup=False)
                with VerticalScroll(id="numbers", classes="pane", can_focus=False) as pane:
                    pane.border_title = "Numbers"
                    yield Facts(id="facts")
            with VerticalScroll(id="story", classes="pane", can_focus=False) as pane:
                pane.border_title = "Log"
                pane.border_subtitle = "t answers · ↑↓ scroll"
                yield EventLog()
                with VerticalScroll(id="samples"):
                    yield Static(id="sample-text", markup=False)
        with Horizontal(id="orders", classes="buttons"):
            yield Button("p Pause", id="pause", action="screen.pause", compact=True)
            yield Button("c Checkpoint", action="screen.checkpoint", compact=True)
            yield Button("s Stop", action="screen.stop", variant="error", compact=True)
            yield Button("r Resume", action="screen.resume", compact=True)
        yield KeyBar()

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
            return (state in RESUMABLE and readable) or None
        if action in ("evaluate", "playground", "compare", "samples"):
            return self.view.kind in ("", "train")
        if action == "review":
            return self.view.kind == "catalog" and state is State.FINISHED
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

    def action_compare(self) -> None:
        """Choose a second run for the plot; the same key takes it away again."""
        if self._other:
            self._other, self.compared, self.compared_name = None, None, ""
            self._draw_curves()
            return

        def chosen(path: Path | None) -> None:
            if path:
                self.compared_name = path.name
                self._other = Follower(RunDirectory(path))

        self.app.push_screen(RunPicker(self.run.path, "train"), chosen)

    def action_samples(self) -> None:
        """Show the model's answers instead of the log, or the log again."""
        self.toggle_class("-samples")
        self._draw_samples()

    def action_evaluate(self) -> None:
        """Evaluate the adapter of this run."""
        self._go("evaluate")

    def action_playground(self) -> None:
        """Ask the adapter of this run something."""
        self._go("playground")

    def action_review(self) -> None:
        """Look at the least sure answers of this run."""
        from tui.screens.review import ReviewScreen

        self.app.push_screen(ReviewScreen(self.run.path))

    def action_copy(self) -> None:
        """Copy the command that follows this run in a shell."""
        self.app.copy_to_clipboard(f"ecellm watch {self.run.path.name}")
        self.notify("The command was copied.", timeout=3)

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

    @on(OtherRead)
    def _other_read(self, event: OtherRead) -> None:
        if self._other:
            self.compared = event.view
            self._draw_curves()

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
        if view.epoch:
            words.append(Content(f"epoch {view.epoch:.2f}"))
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
        self._draw_samples()
        self._draw_confidence()
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
        if view.kind == "catalog":
            counts = view.catalog
            return [
                ("rows/s", number(view.rows_per_second, 3)),
                ("new", str(counts.computed if counts else "–")),
                ("reused", str(counts.reused if counts else "–")),
                ("errors", str(counts.errors if counts else "–")),
                ("rejected", str(counts.rejected if counts else "–")),
            ]
        best = min(view.validation.values, default=None)
        memory = view.peak_memory_gb
        padding = "–" if view.padding is None else f"{view.padding:.0%}"
        return [
            ("loss", number(view.train.last)),
            ("val. loss", number(view.validation.last)),
            ("best val.", number(best)),
            ("lr", number(view.learning_rate, 3)),
            ("tokens/s", number(view.tokens_per_second, 3)),
            ("rows/s", number(view.rows_per_second, 3)),
            ("peak mem.", "–" if memory is None else f"{memory:.2f} GiB"),
            ("of memory", self._share(memory)),
            ("grad norm", number(view.grad_norm, 3)),
            ("padding", padding),
            ("skipped", f"{view.skipped_steps} steps"),
            ("out, cut", f"{view.dropped_rows}, {view.cut_rows}"),
        ]

    def _share(self, used_gb: float | None) -> str:
        """A gauge of the machine's memory."""
        if used_gb is None:
            return "–"
        share = used_gb / self._limit_gb
        return f"{bar(share, 3)} {share:.0%}"

    def _draw_samples(self) -> None:
        samples = self.view.samples
        shown = self.has_class("-samples")
        story = self.query_one("#story")
        story.border_title = f"Sample answers, {len(samples)}" if shown else "Log"
        story.border_subtitle = "t log" if shown else "t answers · ↑↓ scroll"
        if not shown:
            return
        lines = []
        for sample in reversed(samples):
            right = sample.prediction == " ".join(sample.reference.split())
            mark, style = ("✓", "$text-success") if right else ("≠", "$text-warning")
            step = "" if sample.step is None else f"step {sample.step} "
            head = Content.styled(f"{mark} {step}{sample.task}: ", style)
            wanted = "" if right else f"  (expected {sample.reference})"
            lines.append(head + Content(sample.prediction) + Content.styled(wanted, MUTED))
        none = "No answers yet; the recipe's sample_every asks for them."
        self.query_one("#sample-text", Static).update(
            Content("\n").join(lines) if lines else Content(none)
        )

    def _draw_confidence(self) -> None:
        counts = self.view.catalog
        self.set_class(bool(counts and any(counts.confidence)), "-confidence")
        if not counts or not any(counts.confidence):
            return
        most = max(counts.confidence)
        lines = [
            Content.styled(f"{n / 10:.1f} – {(n + 1) / 10:.1f}  ", MUTED)
            + Content.styled(bar(count / most, 24), "$text-primary")
            + Content(f" {count:,}")
            for n, count in reversed(list(enumerate(counts.confidence)))
        ]
        self.query_one("#histogram", Static).update(Content("\n").join(lines))

    def _go(self, mode: str) -> None:
        values = {"adapter": str(self.run.path)}
        with contextlib.suppress(JobError):
            values["model"] = self.run.job().model
        self.app.post_message(PlaceWanted(mode, values))

    def _draw_curves(self) -> None:
        from tui.widgets.loss_plot import LossPlot

        curves = self.view.train, self.view.validation
        other = self.compared
        second = (other.train, other.validation) if other else (Curve(), Curve())
        self.query_one(LossPlot).show(*curves, log=self.log_scale, other=second)
        scale = ", log scale" if self.log_scale else ""
        empty = "" if self.view.train.steps else "  no step yet"
        title = Content.from_markup(
            f"Loss{scale}  [$text-primary]⠒⠒ train[/] [$text-warning]● validation[/]{empty}"
        )
        if other:
            words = f"  × train ◆ validation of {self.compared_name}"
            title += Content.styled(words, "$text-secondary")
        self.query_one("#curves").border_title = title

    @work(thread=True, exclusive=True, group="follow")
    def _follow(self) -> None:
        follower, last, other = Follower(self.run), None, None
        while True:
            if second := self._other:
                view, _ = second.look()
                if view != other:
                    self.post_message(OtherRead(view))
                    other = view
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
