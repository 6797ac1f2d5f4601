"""Playground: ask a model, and its adapter beside it.

The model runs in ``ecellm_mlx.inference.session``, a child that stays while the
screen does. Base and adapter are asked one after the other: the same weights serve
both, with the adapter taken off and put on.
"""

from __future__ import annotations

import json
from typing import Any

from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.message import Message
from textual.widgets import Button, Input, Label, Select, TextArea
from textual.worker import get_current_worker

from ecellm_mlx.errors import EcellmError
from ecellm_mlx.tasks.registry import TASKS, Task, find
from tui import on_disk, places, task_form
from tui.child import command_line
from tui.line_child import LineChild
from tui.messages import ChildEnded, ChildSaid, ExampleRead
from tui.on_disk import Options
from tui.screens.base import PlaceScreen
from tui.widgets.answer_pane import AnswerPane
from tui.widgets.choice import Choice
from tui.widgets.cycle import Cycle
from tui.widgets.model_choices import AdapterChoice, ModelChoice
from tui.widgets.problem import Problem

SESSION = "ecellm_mlx.inference.session"
MODELS_KEY = places.find("models").key_label
MAX_TOKENS = 200
EXAMPLE_PROMPT = "Write one sentence that sells a red enamel kettle."
# In the model's chat template, or as the prompt stands.
WORDINGS = ("as a chat", "as typed")
TASK_OPTIONS = [
    ("free prompt", task_form.FREE),
    *((f"{task.short}  {task.title}", task.name) for task in TASKS.values()),
]


class Lines(TextArea):
    """Several lines of text; tab leaves it."""

    def __init__(self, text: str = "", **options: Any) -> None:
        super().__init__(text, tab_behavior="focus", soft_wrap=True, compact=True, **options)


class PlaygroundScreen(PlaceScreen):
    """A question on one side, two answers on the other."""

    PLACE = "playground"
    PRESET = ("model", "adapter")
    HELP = """
    The playground asks a model one thing at a time: a free prompt, or a question of one
    of the tasks, in the words that training uses. With an adapter, its answer stands
    beside that of the base.

    Questions with a closed set of answers show the probability of every option. The model
    is loaded once and stays until you choose another.
    """
    BINDINGS = [
        Binding("ctrl+r", "ask", "Ask", id="playground.ask", priority=True),
        Binding("ctrl+l", "example", "Sample row", id="playground.example", priority=True),
        Binding("ctrl+x", "stop", "Stop", id="playground.stop", priority=True),
        Binding("ctrl+g", "copy_answer", "Copy answer", id="playground.copy-answer"),
    ]
    AUTO_FOCUS = "#free-prompt"

    def __init__(self) -> None:
        super().__init__()
        self._child: LineChild | None = None
        self._loaded = ("", "")
        self._loading = 0
        self._sides: dict[int, str] = {}
        self._reference = ""
        self._pending: dict[str, Any] | None = None

    def body(self) -> ComposeResult:
        """Form and answers."""
        with Vertical(id="question", classes="pane column -left") as pane:
            pane.border_title = "Question"
            pane.border_subtitle = "^r ask · ^l sample row · ^x stop"
            yield ModelChoice()
            yield AdapterChoice()
            with Horizontal(classes="choice-row"):
                yield Label("Task", classes="choice-label")
                yield Select(
                    TASK_OPTIONS,
                    value=task_form.FREE,
                    allow_blank=False,
                    compact=True,
                    id="task",
                )
            with Horizontal(classes="choice-row", id="wording-row"):
                yield Label("Words", classes="choice-label")
                yield Cycle(WORDINGS, WORDINGS[0])
            with VerticalScroll(id="fields", can_focus=False):
                yield Lines(EXAMPLE_PROMPT, id="free-prompt")
            yield Problem(id="playground-problem")
            with Horizontal(classes="buttons"):
                yield Button("^r Ask", variant="primary", action="screen.ask", compact=True)
                yield Button("^x Stop", action="screen.stop", compact=True)
        with Horizontal(id="answers", classes="column -right"):
            yield AnswerPane("Base", id="answer-base")
            yield AnswerPane("Adapter", id="answer-adapter")

    def on_mount(self) -> None:
        """Show the command."""
        self._edited()

    def on_unmount(self) -> None:
        """The model ends with the screen."""
        super().on_unmount()
        if self._child:
            self._child.end()

    def options(self) -> dict[str, Options]:
        """Models and adapters."""
        return {"model": on_disk.models(), "adapter": on_disk.adapter_options()}

    @property
    def chosen_task(self) -> Task | None:
        """The chosen task; None for a free prompt."""
        name = str(self.query_one("#task", Select).value)
        return find(name) if name else None

    @property
    def values(self) -> dict[str, str]:
        """What the fields of the task say."""
        boxes = self.query("TextArea.task-field").results(TextArea)
        lines = self.query("Input.task-field").results(Input)
        values = {str(box.name): box.text for box in boxes}
        return values | {str(line.name): line.value for line in lines}

    def action_ask(self) -> None:
        """Ask the base, and then the adapter."""
        try:
            request = self._request()
        except EcellmError as error:
            self._complain(str(error))
            return
        model = self.query_one("#model", Choice).value or ""
        if not model:
            self._complain(f"Choose a model; {MODELS_KEY} installs one.")
            return
        self._complain("")
        self.action_stop()
        self._pending = request
        self._load(model, self.query_one("#adapter", Choice).value or "")

    def action_stop(self) -> None:
        """Let the answers end here."""
        if self._child and self._child.alive:
            for request in self._sides:
                self._child.cancel(request)

    def action_example(self) -> None:
        """Fill in a row of the sample."""
        if task := self.chosen_task:
            self._read_example(task)
        else:
            self.notify("Choose a task first: a free prompt has no sample.", timeout=3)

    def action_copy_answer(self) -> None:
        """Copy the adapter's answer, or else the base's."""
        panes = [self.query_one(f"#answer-{side}", AnswerPane) for side in ("adapter", "base")]
        if text := next((pane.text for pane in panes if pane.text), ""):
            self.app.copy_to_clipboard(text)
            self.notify("The answer was copied.", timeout=3)

    @on(Choice.Changed)
    @on(TextArea.Changed)
    @on(Input.Changed)
    @on(Cycle.Changed)
    def _changed(self, event: Message) -> None:
        event.stop()
        self._edited()

    @on(Select.Changed, "#task")
    async def _task_chosen(self, event: Select.Changed) -> None:
        event.stop()
        self._reference = ""
        await self._show_fields({})

    @on(ExampleRead)
    async def _example_read(self, event: ExampleRead) -> None:
        if not event.values:
            self.notify("The sample has no row of this task.", severity="warning")
            return
        self._reference = event.reference
        await self._show_fields(event.values)

    @on(ChildSaid)
    def _child_said(self, message: ChildSaid) -> None:
        event = message.event
        kind, request = event.get("event"), event.get("id")
        if request is not None and request == self._loading:
            self._loading_said(kind, event)
            return
        if not isinstance(request, int) or request not in self._sides:
            return
        side = self._sides[request]
        pane = self.query_one(f"#answer-{side}", AnswerPane)
        if kind == "text":
            pane.add(str(event["text"]))
        elif kind == "answer":
            pane.finish(event, self._reference)
        elif kind == "error":
            del self._sides[request]
            pane.fail(str(event["message"]))
        elif kind == "done":
            del self._sides[request]
            if "text" in event or event.get("ending") == "cancelled":
                pane.finish(event)
        self._show_state()

    @on(ChildEnded)
    def _child_ended(self, event: ChildEnded) -> None:
        last = event.words.splitlines()[-1] if event.words else ""
        why = "ran out of memory, or was killed" if event.code < 0 else f"exit {event.code}"
        words = f"The model's process ended ({why}). {last[:200]} Ask again to start a new one."
        self._loaded, self._loading = ("", ""), 0
        for side in set(self._sides.values()):
            self.query_one(f"#answer-{side}", AnswerPane).fail("no answer")
        self._sides.clear()
        self._pending = None
        self._complain(words)
        self._show_state()

    def _loading_said(self, kind: Any, event: dict[str, Any]) -> None:
        if kind == "loaded":
            self._loading = 0
            self._send_pending()
        elif kind == "error":
            self._loading, self._loaded, self._pending = 0, ("", ""), None
            self._complain(str(event["message"]))
        elif kind == "warning":
            self.notify(str(event["message"]), severity="warning", markup=False)
        self._show_state()

    def _load(self, model: str, adapter: str) -> None:
        if self._child is None or not self._child.alive:
            try:
                self._child = LineChild(
                    SESSION,
                    lambda event: self.post_message(ChildSaid(event)),
                    lambda code, words: self.post_message(ChildEnded(code, words)),
                )
            except OSError as error:
                self._pending = None
                self._complain(f"The model's process cannot be started: {error}")
                return
            self._loaded = ("", "")
        if self._loaded != (model, adapter):
            self._loaded = (model, adapter)
            self._loading = self._child.send(op="load", model=model, adapter=adapter or None)
        elif not self._loading:
            self._send_pending()
        self._show_state()

    def _send_pending(self) -> None:
        request, self._pending = self._pending, None
        if request is None or self._child is None:
            return
        sides = ["base", "adapter"] if self._loaded[1] else ["base"]
        for side in ("base", "adapter"):
            pane = self.query_one(f"#answer-{side}", AnswerPane)
            if side in sides:
                pane.begin()
                self._sides[self._child.send(**request, side=side)] = side
            else:
                pane.clear("No adapter is chosen.")

    def _request(self) -> dict[str, Any]:
        if task := self.chosen_task:
            return {"op": "answer", "rows": [task_form.request_row(task, self.values)]}
        prompt = self.query_one("#free-prompt", TextArea).text
        return {
            "op": "generate",
            "prompt": prompt,
            "max_tokens": MAX_TOKENS,
            "chat": self._as_chat,
        }

    async def _show_fields(self, values: dict[str, str]) -> None:
        box = self.query_one("#fields", VerticalScroll)
        await box.query(".task-row").remove()
        task = self.chosen_task
        self.query_one("#free-prompt").display = task is None
        self.query_one("#wording-row").display = task is None
        if task:
            rows = []
            for name, several in task_form.fields(task):
                text = values.get(name, "")
                field: TextArea | Input
                if several:
                    field = Lines(text, name=name, classes="task-field -lines")
                else:
                    field = Input(text, name=name, classes="task-field", compact=True)
                label = Label(name.rstrip(":"), classes="choice-label", markup=False)
                rows.append(Horizontal(label, field, classes="task-row"))
            await box.mount(*rows)
        self._edited()

    def _edited(self) -> None:
        words = ["generate", "--model", self.query_one("#model", Choice).value or "MODEL"]
        adapter = self.query_one("#adapter", Choice).value
        if adapter:
            words += ["--adapter", adapter]
        # Without one, the base has all the room.
        self.query_one("#answer-adapter").display = bool(adapter)
        if task := self.chosen_task:
            try:
                row = task_form.request_row(task, self.values)
                words += ["--task", task.short, "--input", self._input(task, row)]
                if row["options"]:
                    words += ["--options", row["options"]]
            except EcellmError:
                words += ["--task", task.short, "--input", "JSON"]
        else:
            words += ["--prompt", self.query_one("#free-prompt", TextArea).text]
            words += ["--chat"] if self._as_chat else []
        self.show_command(command_line(words))

    @property
    def _as_chat(self) -> bool:
        return self.query_one(Cycle).value == WORDINGS[0]

    def _input(self, task: Task, row: dict[str, Any]) -> str:
        """``--input``: the fields, where the task has more than one."""
        if len(task.fields) == 1:
            return str(row["input"])
        given = task_form.given(task, self.values)
        return json.dumps(given, ensure_ascii=False)

    def _complain(self, sentence: str) -> None:
        self.query_one(Problem).show(sentence)

    def _show_state(self) -> None:
        title = "Question"
        if self._loading:
            title = f"Question: loading {self._loaded[0]} …"
        elif self._sides:
            title = "Question: answering …"
        self.query_one("#question").border_title = title

    @work(thread=True, exclusive=True, group="example")
    def _read_example(self, task: Task) -> None:
        example = task_form.example(task)
        if get_current_worker().is_cancelled:
            return
        if example:
            self.post_message(ExampleRead(example[1], example[0].output))
        else:
            self.post_message(ExampleRead({}, ""))
