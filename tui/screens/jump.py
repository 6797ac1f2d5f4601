"""Jump mode: a letter on everything that can be focused, a digit on every place."""

from __future__ import annotations

from typing import Any

from textual import events
from textual.app import ComposeResult
from textual.binding import Binding
from textual.screen import ModalScreen, Screen
from textual.widget import Widget
from textual.widgets import Label

from tui.widgets.nav import NavItem

LETTERS = "asdfghjklqwertyuiopzxcvbnmASDFGHJKLQWERTYUIOPZXCVBNM"


def targets(screen: Screen[Any]) -> dict[str, Widget]:
    """What can be jumped to on ``screen``: digits are places, letters are widgets."""
    by_label: dict[str, Widget] = {}
    for number, item in enumerate(screen.query(NavItem), 1):
        by_label[str(number)] = item
    letters = iter(LETTERS)
    for widget in screen.focus_chain:
        # What is scrolled out of sight has no place for a label.
        seen = screen.find_widget(widget).visible_region if widget.is_attached else None
        if seen and (letter := next(letters, "")):
            by_label[letter] = widget
    return by_label


class JumpScreen(ModalScreen[Widget | None]):
    """Dismissed with the widget whose label was pressed, or None."""

    BINDINGS = [Binding("escape,ctrl+o", "dismiss(None)", "Stay here", id="jump.cancel")]
    AUTO_FOCUS = ""

    def __init__(self, by_label: dict[str, Widget]) -> None:
        super().__init__()
        self._targets = by_label

    def compose(self) -> ComposeResult:
        """One label at the corner of each target."""
        for letter, widget in self._targets.items():
            label = Label(letter, classes="jump-label", markup=False)
            place = "-place" if isinstance(widget, NavItem) else "-widget"
            label.add_class(place)
            label.styles.offset = widget.region.offset
            yield label

    def on_key(self, event: events.Key) -> None:
        """Go to the target of the letter."""
        if event.character and event.character in self._targets:
            event.stop()
            self.dismiss(self._targets[event.character])
