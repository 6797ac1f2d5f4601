"""The line at the top: the program's name and the places to go, with their keys."""

from __future__ import annotations

from dataclasses import dataclass

from textual.app import ComposeResult
from textual.containers import Horizontal
from textual.content import Content
from textual.widgets import Static


@dataclass(frozen=True)
class Place:
    """A screen that a function key leads to. ``mode`` is its name in ``App.MODES``."""

    mode: str
    title: str
    key: str


PLACES = (Place("home", "Home", "f2"), Place("train", "Train", "f3"))


class NavItem(Static):
    """One place; a click goes there."""

    def __init__(self, place: Place, *, current: bool) -> None:
        label = Content.styled(f" {place.key.upper()} ", "$text-accent") + Content(
            f"{place.title} "
        )
        super().__init__(label, classes="-current" if current else "")
        self.place = place

    async def on_click(self) -> None:
        """Go there, as the key does."""
        await self.app.run_action(f"app.go({self.place.mode!r})")


class NavBar(Horizontal):
    """All places, the current one marked."""

    def __init__(self, current: str) -> None:
        super().__init__()
        self._current = current

    def compose(self) -> ComposeResult:
        """The name, then the places."""
        yield Static(" ecellm ", id="brand")
        for place in PLACES:
            yield NavItem(place, current=place.mode == self._current)
