"""One row that was answered otherwise: the prompt, the label and every answer."""

from __future__ import annotations

from collections.abc import Sequence

from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import VerticalScroll
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Static

from tui.evaluations import Miss
from tui.widgets.facts import MUTED


class MissDialog(ModalScreen[None]):
    """Shown over the table of rows."""

    BINDINGS = [Binding("escape,enter,q", "dismiss", "Close", id="miss.close")]

    def __init__(self, miss: Miss, sides: Sequence[str]) -> None:
        super().__init__()
        self._miss, self._sides = miss, sides

    def compose(self) -> ComposeResult:
        """Answers first: they are what one came for."""
        miss = self._miss
        lines = [Content.styled("expected  ", MUTED) + Content.styled(miss.expected, "bold")]
        for side, answer in zip(self._sides, miss.answers, strict=False):
            right = (answer or "").strip() == miss.expected.strip()
            mark, style = ("✓", "$text-success") if right else ("≠", "$text-error")
            words = "–" if answer is None else f"{mark} {answer}"
            name = Content.styled(f"{side.lower():<10}", MUTED)
            lines.append(name + Content.styled(words, style))
        with VerticalScroll(id="dialog") as box:
            box.border_title = Content(f"{miss.task}, row {miss.id}")
            box.border_subtitle = "esc close"
            yield Static(Content("\n").join(lines))
            yield Static(miss.prompt, classes="miss-prompt", markup=False)
