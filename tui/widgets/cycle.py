"""One of a few words, changed in place: a ``Select`` without the weight of its list."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from textual.binding import Binding
from textual.content import Content
from textual.message import Message
from textual.reactive import reactive
from textual.widget import Widget


class Cycle(Widget, can_focus=True):
    """Space, the arrows or a click go to the next or the previous word."""

    BINDINGS = [
        Binding("space,right,enter", "next(1)", "Next value", show=False, id="cycle.next"),
        Binding("left", "next(-1)", "Previous value", show=False, id="cycle.previous"),
    ]
    DEFAULT_CSS = "Cycle { height: 1; }"

    value: reactive[str] = reactive("")

    @dataclass
    class Changed(Message):
        """Another word was chosen."""

        cycle: Cycle

    def __init__(self, words: Sequence[str], value: str) -> None:
        super().__init__()
        self.words = tuple(words)
        self.set_reactive(Cycle.value, value)

    def render(self) -> Content:
        """The word, between arrows while in focus."""
        return Content(f"‹ {self.value} ›" if self.has_focus else self.value)

    def action_next(self, distance: int) -> None:
        """Go ``distance`` words on, round the end."""
        # A word that is none of ours comes from a recipe file; the check reports it.
        here = self.words.index(self.value) if self.value in self.words else -1
        self.value = self.words[(here + distance) % len(self.words)]

    def watch_value(self) -> None:
        """Tell the form."""
        self.post_message(self.Changed(self))

    def on_click(self) -> None:
        """A click chooses the next word."""
        self.action_next(1)
