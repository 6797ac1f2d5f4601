"""What one side of the playground answered: text as it comes, options as bars."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from textual.app import ComposeResult
from textual.containers import VerticalScroll
from textual.content import Content
from textual.widgets import Static

from tui.widgets.facts import MUTED

BAR_WIDTH = 10
SHOWN_OPTIONS = 20
ENDINGS = {"length": "at the limit", "cancelled": "ended by you"}
EIGHTHS = " ▏▎▍▌▋▊▉█"


def bar(share: float, width: int = BAR_WIDTH) -> str:
    """``share`` of ``width`` cells, to an eighth of a cell."""
    eighths = round(max(0.0, min(1.0, share)) * width * 8)
    full, rest = divmod(eighths, 8)
    return ("█" * full + (EIGHTHS[rest] if rest else "")).ljust(width)


class AnswerPane(VerticalScroll):
    """The answer of the base or of the adapter."""

    def __init__(self, title: str, *, id: str) -> None:
        super().__init__(id=id, classes="pane answer")
        self.border_title = title
        self._title = title
        self.text = ""

    def compose(self) -> ComposeResult:
        """The text, then what is known about it."""
        yield Static(classes="answer-text", markup=False)
        yield Static(classes="answer-facts", markup=False)

    def begin(self) -> None:
        """A new answer comes."""
        self.text = ""
        self.border_title = f"{self._title}: …"
        self._draw(Content(""))

    def clear(self, note: str = "") -> None:
        """No answer; ``note`` says why."""
        self.text = ""
        self.border_title = self._title
        self._draw(Content.styled(note, MUTED))

    def add(self, piece: str) -> None:
        """More of the text."""
        self.text += piece
        self._draw(Content(""))

    def finish(self, event: dict[str, Any], reference: str = "") -> None:
        """The answer is complete: an ``answer`` or ``done`` event of the session."""
        self.border_title = self._title
        if "prediction" in event:
            self.text = str(event["prediction"])
        lines = []
        if reference:
            right = reference.strip() == self.text.strip()
            mark, style = ("✓", "$text-success") if right else ("≠", "$text-warning")
            lines.append(Content.styled(f"{mark} expected: ", style) + Content(reference))
        lines += _bars(event.get("options") or [])
        if event.get("error"):
            lines.append(Content.styled(f"✗ {event['error']}", "$text-error"))
        words = []
        if event.get("tokens"):
            rate = event["tokens"] / max(event["seconds"], 1e-9)
            words.append(f"{event['tokens']} tokens, {rate:.1f} tokens/s")
        if note := ENDINGS.get(str(event.get("ending"))):
            words.append(note)
        if not self.text and not event.get("error") and event.get("ending") != "cancelled":
            words.append("the model said nothing")
        if words:
            lines.append(Content.styled(", ".join(words), MUTED))
        self._draw(Content("\n").join(lines))

    def fail(self, message: str) -> None:
        """There will be no answer."""
        self.border_title = self._title
        self._draw(Content.styled(f"✗ {message}", "$text-error"))

    def _draw(self, facts: Content) -> None:
        self.query_one(".answer-text", Static).update(Content(self.text))
        self.query_one(".answer-facts", Static).update(facts)


def _bars(options: Sequence[Sequence[Any]]) -> list[Content]:
    """One line an option, the likeliest first."""
    ordered = sorted(options, key=lambda option: -option[1])[:SHOWN_OPTIONS]
    return [
        Content.styled(bar(share), "$text-primary")
        + Content(f" {share:5.0%} ")
        + Content.styled(str(label), "bold" if n == 0 else "")
        for n, (label, share) in enumerate(ordered)
    ]
