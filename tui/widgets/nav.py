"""The line at the top: the program's name, the places to go with their keys, and help."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from textual import events
from textual.app import ComposeResult
from textual.containers import Horizontal
from textual.content import Content
from textual.widgets import Static

from tui.places import HELP_KEY, PLACES, Place

BRAND, HELP = "ecellm", "Help"
FEWEST_LETTERS = 3  # of a title that is cut


@dataclass(frozen=True)
class NavText:
    """What the line says: a title for each place, maybe none, and the word for help.

    ``full`` says that there is room for the program's name and space around the titles.
    """

    titles: tuple[str, ...]
    help: str
    full: bool = False

    def width(self, places: Sequence[Place]) -> int:
        """Columns that it takes."""
        space, gap = (2, 0) if self.full else (0, 1)
        words = [
            f"{place.key_label} {title}" if title else place.key_label
            for place, title in zip(places, self.titles, strict=True)
        ]
        brand = len(BRAND) + 3 if self.full else 0
        help_words = f" {HELP_KEY} {self.help} " if self.help else f" {HELP_KEY} "
        return brand + sum(len(word) + space + gap for word in words) + len(help_words)


def fitting(places: Sequence[Place], current: str, width: int) -> NavText:
    """The most that fits into ``width`` columns.

    Full titles, else short ones, else these cut to ever fewer letters, and no word for help;
    where not even ``FEWEST_LETTERS`` fit, only the place ``current`` keeps its title.
    """
    full = NavText(tuple(place.title for place in places), HELP, full=True)
    if full.width(places) <= width:
        return full
    longest = max(len(place.short) for place in places)
    for letters in range(longest, FEWEST_LETTERS - 1, -1):
        titles = tuple(place.short[:letters] for place in places)
        for text in (NavText(titles, HELP), NavText(titles, "")):
            # The space at the right of help may be cut.
            if text.width(places) - 1 <= width:
                return text
    return NavText(tuple(place.short if place.mode == current else "" for place in places), "")


class NavItem(Static):
    """One place; a click goes there."""

    def __init__(self, place: Place, *, current: bool) -> None:
        super().__init__(classes="-current" if current else "")
        self.place = place

    def show(self, title: str, *, full: bool) -> None:
        """Draw the key and the title."""
        space = " " if full else ""
        key = Content.styled(f"{space}{self.place.key_label}", "$text-accent")
        self.update(key + Content(f" {title}{space}" if title else ""))

    async def on_click(self) -> None:
        """Go there, as the key does."""
        await self.app.run_action(f"app.go({self.place.mode!r})")


class NavHelp(Static):
    """Help is a click away, too."""

    def show(self, word: str) -> None:
        """Draw the key and the word."""
        key = Content.styled(HELP_KEY.upper(), "$text-accent")
        self.update(key + Content(f" {word}" if word else ""))

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
        yield Static(f" {BRAND} ", id="brand")
        for place in PLACES:
            yield NavItem(place, current=place.mode == self._current)
        yield NavHelp(id="nav-help")

    def on_resize(self, event: events.Resize) -> None:
        """Shorten the titles until they fit."""
        text = fitting(PLACES, self._current, event.size.width)
        self.set_class(not text.full, "-short")
        for item, title in zip(self.query(NavItem), text.titles, strict=True):
            item.show(title, full=text.full)
        self.query_one(NavHelp).show(text.help)
