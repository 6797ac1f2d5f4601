"""Train: choose a model, data and a recipe, and start the job."""

from __future__ import annotations

import time
from pathlib import Path

from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import Horizontal, Vertical
from textual.content import Content
from textual.widgets import Button, Static
from textual.worker import get_current_worker

from ecellm_mlx import jobs
from ecellm_mlx.errors import EcellmError, RecipeError
from ecellm_mlx.training import recipe
from tui import child, formats, on_disk
from tui.messages import FormChecked, JobRefused, JobStarted, PlanRead
from tui.on_disk import Options
from tui.order import TrainOrder
from tui.screens.base import PlaceScreen
from tui.widgets.choice import Choice
from tui.widgets.facts import MUTED
from tui.widgets.model_choices import ModelChoice
from tui.widgets.problem import Problem
from tui.widgets.recipe_form import RecipeForm

REFRESH_S = 3.0
SETTLE_S = 0.6  # typing is over when nothing was typed for this long
NO_MODEL = (
    "No model is installed. Run `ecellm models import smollm2-135m` for a small one to try, "
    "or `ecellm models pull phi-2`; it shows up here by itself."
)
DEFAULTS = ("the paper's settings", "")


class TrainScreen(PlaceScreen):
    """The form of a training run, and the command that does the same."""

    PLACE = "train"
    PRESET = ("model", "data", "recipe")
    HELP = """
    Train sets up a LoRA run. Choose a base model, a folder with train.jsonl and
    val.jsonl, and a recipe; change single settings on the right or below.

    The command that the form stands for is shown as you go: copy it to run the same
    from a shell or a script. Everything is checked before the job starts, and the
    job is a process of its own, which goes on when ecellm is closed.
    """
    BINDINGS = [
        Binding("ctrl+r", "start", "Start run", id="train.start", tooltip="Start the job"),
        Binding("ctrl+l", "reset", "Reset settings", id="train.reset"),
    ]
    AUTO_FOCUS = "#model Select"

    def __init__(self) -> None:
        super().__init__()
        self._starting = False
        self._planned: TrainOrder | None = None
        self._loaded_recipe: str | None = ""

    def body(self) -> ComposeResult:
        """What to train on, then how."""
        with Vertical(id="job", classes="pane") as pane:
            pane.border_title = "Job"
            pane.border_subtitle = "tab next · ^r start"
            yield ModelChoice()
            yield Choice(
                "Data",
                id="data",
                prompt="choose rows",
                other="a folder …",
                placeholder="folder with train.jsonl and val.jsonl",
            )
            yield Choice(
                "Recipe",
                id="recipe",
                prompt="choose a recipe",
                other="a TOML file …",
                placeholder="recipe.toml",
                options=[DEFAULTS, *((name, name) for name in recipe.names())],
                value="",
            )
            yield Static(id="plan", markup=False)
            with Horizontal(classes="buttons"):
                yield Button(
                    "^r Start run",
                    id="start",
                    variant="primary",
                    action="screen.start",
                    compact=True,
                )
                yield Button("^y Copy command", action="screen.copy", compact=True)
            yield Problem(id="refusal")
        with Vertical(id="settings", classes="pane") as pane:
            pane.border_title = "Settings"
            pane.border_subtitle = "↑↓ move · space next word · ^l reset"
            yield RecipeForm()

    def on_mount(self) -> None:
        """Look for models and data, now and then again."""
        self.set_interval(REFRESH_S, self._refresh_options)
        self._form_changed()

    def preset(self, values: dict[str, str]) -> None:
        """Take over a model, data, a recipe; ``set:KEY`` is a setting."""
        super().preset(values)
        settings = {
            key.removeprefix("set:"): value
            for key, value in values.items()
            if key.startswith("set:")
        }
        self.query_one(RecipeForm).change(settings)

    def options(self) -> dict[str, Options]:
        """Models and folders of rows."""
        return {"model": on_disk.models(), "data": on_disk.datasets()}

    def options_read(self) -> None:
        """What was missing may be there now, also behind a path that was typed."""
        self._check(self.order)

    @property
    def order(self) -> TrainOrder:
        """What the form says now."""
        return TrainOrder(
            model=self.query_one("#model", Choice).value or "",
            data=self.query_one("#data", Choice).value or "",
            recipe=self.query_one("#recipe", Choice).value or "",
            overrides=self.query_one(RecipeForm).overrides,
        )

    def action_start(self) -> None:
        """Check everything, then start the job."""
        if self._starting:
            return
        self._refuse("")
        self._set_starting(True)
        self._start(self.order)

    def action_reset(self) -> None:
        """Drop all changes to the recipe."""
        self.query_one(RecipeForm).reset()

    @on(Choice.Changed)
    @on(RecipeForm.Changed)
    def _form_changed(self) -> None:
        order = self.order
        self._load_recipe(order.recipe)
        order = self.order
        self.show_command(order.command())
        self._refuse("")
        self._check(order)

    @on(FormChecked)
    def _form_checked(self, event: FormChecked) -> None:
        for field in ("model", "data", "recipe"):
            self.query_one(f"#{field}", Choice).complain(event.problems.get(field, ""))
        self.query_one(RecipeForm).complain(event.problems.get("settings", ""))
        if event.problems:
            self._planned = None
            self.query_one("#plan", Static).update("")
        elif self.order != self._planned:
            self._planned = self.order
            self.query_one("#plan", Static).update("Planning …")
            self._plan(self.order)

    @on(PlanRead)
    def _plan_read(self, event: PlanRead) -> None:
        self.query_one("#plan", Static).update(plan_text(event))

    @on(JobRefused)
    def _job_refused(self, event: JobRefused) -> None:
        self._set_starting(False)
        self._refuse(event.sentence)

    @on(JobStarted)
    def _job_started(self) -> None:
        # The app takes the message from here and opens the run.
        self._set_starting(False)

    def _load_recipe(self, name: str) -> None:
        """Show the values of the chosen recipe once it is another one."""
        if name == self._loaded_recipe:
            return
        self._loaded_recipe = name
        try:
            values = recipe.read(name or None).to_dict()
        except RecipeError:
            # The check that follows says why, beside the field.
            return
        self.query_one(RecipeForm).load(values)

    def _set_starting(self, starting: bool) -> None:
        self._starting = starting
        button = self.query_one("#start", Button)
        button.disabled = starting
        button.label = "checking …" if starting else "^r Start run"

    def _refuse(self, sentence: str) -> None:
        self.query_one("#refusal", Problem).show(sentence)

    def _refresh_options(self) -> None:
        if self.is_current:
            self.read_options()

    @work(thread=True, exclusive=True, group="check")
    def _check(self, order: TrainOrder) -> None:
        problems = _problems(order)
        if not get_current_worker().is_cancelled:
            self.post_message(FormChecked(problems))

    @work(thread=True, exclusive=True, group="plan")
    def _plan(self, order: TrainOrder) -> None:
        time.sleep(SETTLE_S)
        if get_current_worker().is_cancelled:
            return
        value, problem = child.ask(order.plan())
        if not get_current_worker().is_cancelled:
            self.post_message(PlanRead(value, problem))

    @work(thread=True, group="start")
    def _start(self, order: TrainOrder) -> None:
        from ecellm_mlx.training.setup import create_run

        try:
            run = create_run(
                order.model, order.data, order.recipe or None, list(order.overrides)
            )
            process = jobs.start(run)
        except EcellmError as error:
            self.post_message(JobRefused(str(error)))
        except OSError as error:
            self.post_message(JobRefused(f"The job's process cannot be started: {error}."))
        else:
            self.post_message(JobStarted(run, process))


def plan_text(event: PlanRead) -> Content:
    """A plan in a few lines: does it fit, how long will it take, what would help."""
    if event.value is None:
        return Content.styled(f"No plan: {event.problem}", "$text-warning")
    plan = event.value
    peak, limit = float(plan["peak_gb"]), plan.get("limit_gb")
    room = f" of {limit:.1f}" if isinstance(limit, int | float) else ""
    words, style = (
        ("✓ fits", "$text-success") if plan["fits"] else ("✗ too large", "$text-error")
    )
    lines = [
        Content.styled(words, f"bold {style}")
        + Content(f": peak {peak:.1f}{room} GiB, about {formats.duration(plan['seconds'])}"),
        Content.styled(
            f"{plan['rows']:,} rows, {plan['tokens']:,} tokens at "
            f"{formats.number(plan['tokens_per_second'], 3)} a second",
            MUTED,
        ),
    ]
    lines += [Content.styled(f"! try {text}", "$text-warning") for text in plan["suggestions"]]
    return Content("\n").join(lines)


def _problems(order: TrainOrder) -> dict[str, str]:
    """What is wrong, by field; slow checks are left to the start."""
    from ecellm_mlx import workspace
    from ecellm_mlx.data import rows
    from ecellm_mlx.models import registry

    problems: dict[str, str] = {}
    installed = {model.name: model for model in registry.installed(workspace.current())}
    try:
        if order.model in installed and (problem := installed[order.model].problem):
            problems["model"] = f"{order.model} cannot be used: {problem}."
        elif order.model:
            registry.resolve(order.model)
        else:
            problems["model"] = "Choose a model." if installed else NO_MODEL
    except EcellmError as error:
        problems["model"] = str(error)
    try:
        if order.data:
            rows.dataset(Path(order.data))
        else:
            problems["data"] = "Choose a folder that holds train.jsonl."
    except EcellmError as error:
        problems["data"] = str(error)
    try:
        recipe.read(order.recipe or None)
    except RecipeError as error:
        problems["recipe"] = str(error)
    else:
        try:
            recipe.read(order.recipe or None, order.overrides)
        except RecipeError as error:
            problems["settings"] = str(error)
    return problems
