"""The question before leaving while jobs or commands run."""

from __future__ import annotations

from collections.abc import Sequence
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
    """Answers what is to become of the live jobs; None stays in the app.

    Args:
        live: jobs, which go on without the app.
        commands: command lines that end with it.
    """

    BINDINGS = [
        Binding("k", "keep", "Keep running", id="quit.keep"),
        Binding("s", "stop", "Checkpoint and stop", id="quit.stop"),
        Binding("escape,c", "cancel", "Cancel", id="quit.cancel"),
    ]
    AUTO_FOCUS = "#keep"

    def __init__(self, live: Sequence[RunSummary], commands: Sequence[str] = ()) -> None:
        super().__init__()
        self._live, self._commands = live, commands

    def compose(self) -> ComposeResult:
        """The jobs, the commands and the answers."""
        jobs = [
            f"{run.name}  {run.state}, step {formats.steps(run.step, run.total_steps)}"
            for run in self._live
        ]
        with VerticalScroll(id="quit", can_focus=False) as box:
            box.border_title = "Leave ecellm?"
            if jobs:
                yield Static(_listed("job", jobs), id="quit-jobs", markup=False)
                yield Static(
                    "A job needs no open screen. Open ecellm again to see it.", classes="hint"
                )
            if self._commands:
                words = _listed("command", self._commands)
                yield Static(words, id="quit-commands", markup=False)
                yield Static(
                    "Commands end when you leave; a pull goes on where it was when it is "
                    "run again.",
                    classes="hint",
                )
            with Vertical():
                keep = "k Keep jobs running" if jobs else "k Leave all the same"
                yield Button(keep, variant="primary", id="keep", compact=True)
                if jobs:
                    yield Button(
                        "s Checkpoint and stop", variant="warning", id="stop", compact=True
                    )
                yield Button("esc Cancel", id="cancel", compact=True)

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Without jobs there is nothing to stop."""
        return bool(self._live) if action == "stop" else True

    @on(Button.Pressed, "#keep")
    def action_keep(self) -> None:
        """Leave; jobs go on, commands end."""
        self.dismiss("keep")

    @on(Button.Pressed, "#stop")
    def action_stop(self) -> None:
        """Ask the jobs to save and stop, then leave."""
        self.dismiss("stop")

    @on(Button.Pressed, "#cancel")
    def action_cancel(self) -> None:
        """Stay."""
        self.dismiss(None)


def _listed(what: str, items: Sequence[str]) -> str:
    """The first items, each on a line of its own, under how many there are."""
    title = f"1 {what} is running:" if len(items) == 1 else f"{len(items)} {what}s are running:"
    lines = [title, *(f"  {item}" for item in items[:SHOWN])]
    if len(items) > SHOWN:
        lines.append(f"  and {len(items) - SHOWN} more")
    return "\n".join(lines)
