"""The line at the top: the program's name, the places to go with their keys, and help."""

from __future__ import annotations

from textual import events
from textual.app import ComposeResult
from textual.containers import Horizontal
from textual.content import Content
from textual.widgets import Static

from tui.places import PLACES, Place

FULL_WIDTH, SHORT_WIDTH = 110, 79


class NavItem(Static):
    """One place; a click goes there. ``form`` is full, short or key."""

    def __init__(self, place: Place, *, current: bool) -> None:
        super().__init__(classes="-current" if current else "")
        self.place = place
        self._current = current

    def show(self, form: str) -> None:
        """Draw as much as there is room for; the current place keeps its name."""
        title = self.place.title if form == "full" else self.place.short
        if form == "key" and not self._current:
            title = ""
        space = " " if form == "full" else ""
        key = Content.styled(f"{space}{self.place.key.upper()}", "$text-accent")
        self.update(key + Content(f" {title}{space}" if title else ""))

    async def on_click(self) -> None:
        """Go there, as the key does."""
        await self.app.run_action(f"app.go({self.place.mode!r})")


class NavHelp(Static):
    """Help is a click away, too."""

    def show(self, form: str) -> None:
        """Draw the key, and its word where there is room."""
        key = Content.styled("F1", "$text-accent")
        self.update(key + Content("" if form == "key" else " Help"))

    async def on_click(self) -> None:
        """Explain the screen, as the key does."""
        await self.app.run_action("app.help")


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
        yield NavHelp(id="nav-help")

    def on_resize(self, event: events.Resize) -> None:
        """Shorten the titles until they fit."""
        width = event.size.width
        form = "full" if width >= FULL_WIDTH else "short" if width >= SHORT_WIDTH else "key"
        self.set_class(form != "full", "-short")
        for item in self.query(NavItem):
            item.show(form)
        self.query_one(NavHelp).show(form)
