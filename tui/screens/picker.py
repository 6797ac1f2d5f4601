"""Choose a run from those on disk."""

from __future__ import annotations

from pathlib import Path

from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import VerticalScroll
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import OptionList, Static

from tui import formats, runs
from tui.messages import RunsListed
from tui.runs import RunSummary


class RunPicker(ModalScreen[Path | None]):
    """Dismissed with the run's folder, or None."""

    BINDINGS = [Binding("escape", "dismiss(None)", "Cancel", id="picker.cancel")]

    def __init__(self, apart_from: Path, kind: str) -> None:
        super().__init__()
        self._apart_from, self._kind = apart_from, kind
        self._runs: list[RunSummary] = []

    def compose(self) -> ComposeResult:
        """The list, empty at first."""
        with VerticalScroll(id="dialog", can_focus=False) as box:
            box.border_title = "Compare with"
            box.border_subtitle = "enter choose · esc cancel"
            yield OptionList(id="picker")
            yield Static("Reading the runs …", id="picker-note", classes="hint", markup=False)

    def on_mount(self) -> None:
        """Read the runs."""
        self._read()

    @on(RunsListed)
    def _listed(self, event: RunsListed) -> None:
        self._runs = event.runs
        picker = self.query_one(OptionList)
        for run in event.runs:
            steps = formats.steps(run.step, run.total_steps)
            words = f"{run.name}  {run.state}, step {steps}, {run.model}"
            picker.add_option(Content(words))
        none = "There is no other run yet." if not event.runs else ""
        self.query_one("#picker-note", Static).update(none)
        picker.highlighted = 0 if event.runs else None
        picker.focus()

    @on(OptionList.OptionSelected)
    def _selected(self, event: OptionList.OptionSelected) -> None:
        event.stop()
        self.dismiss(self._runs[event.option_index].path)

    @work(thread=True)
    def _read(self) -> None:
        try:
            listed = runs.listing()
        except OSError:
            listed = []
        self.post_message(
            RunsListed(
                [r for r in listed if r.kind == self._kind and r.path != self._apart_from]
            )
        )
