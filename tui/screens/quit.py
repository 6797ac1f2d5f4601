"""The question before leaving while jobs run."""

from __future__ import annotations

from typing import Literal

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import Vertical, VerticalScroll
from textual.screen import ModalScreen
from textual.widgets import Button, Static

from tui import formats
from tui.runs import RunSummary

Answer = Literal["keep", "stop"]
SHOWN = 4


class QuitDialog(ModalScreen[Answer | None]):
    """Answers what is to become of the live jobs; None stays in the app."""

    BINDINGS = [
        Binding("k", "keep", "Keep running", id="quit.keep"),
        Binding("s", "stop", "Checkpoint and stop", id="quit.stop"),
        Binding("escape,c", "cancel", "Cancel", id="quit.cancel"),
    ]
    AUTO_FOCUS = "#keep"

    def __init__(self, live: list[RunSummary]) -> None:
        super().__init__()
        self._live = live

    def compose(self) -> ComposeResult:
        """The jobs and the three answers."""
        count = len(self._live)
        lines = [
            f"  {run.name}  {run.state}, step {formats.steps(run.step, run.total_steps)}"
            for run in self._live[:SHOWN]
        ]
        if count > SHOWN:
            lines.append(f"  and {count - SHOWN} more")
        with VerticalScroll(id="quit", can_focus=False) as box:
            box.border_title = "Leave ecellm?"
            what = "1 job is running:" if count == 1 else f"{count} jobs are running:"
            yield Static("\n".join([what, *lines]), markup=False)
            yield Static(
                "A job needs no open screen. Open ecellm again to see it.", classes="hint"
            )
            with Vertical():
                yield Button("k Keep running", variant="primary", id="keep", compact=True)
                yield Button(
                    "s Checkpoint and stop", variant="warning", id="stop", compact=True
                )
                yield Button("esc Cancel", id="cancel", compact=True)

    @on(Button.Pressed, "#keep")
    def action_keep(self) -> None:
        """Leave; the jobs go on."""
        self.dismiss("keep")

    @on(Button.Pressed, "#stop")
    def action_stop(self) -> None:
        """Ask the jobs to save and stop, then leave."""
        self.dismiss("stop")

    @on(Button.Pressed, "#cancel")
    def action_cancel(self) -> None:
        """Stay."""
        self.dismiss(None)
