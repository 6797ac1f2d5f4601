"""The command palette: all that can be done, by its words, wherever it is done.

``KeyCommands`` offers the keys of the screen that is shown, ``PlaceCommands`` those of
the other places: choosing one goes there first.
"""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from functools import partial

from textual.binding import Binding
from textual.command import DiscoveryHit, Hit, Hits, Provider

from tui.messages import PlaceWanted
from tui.places import PLACES, Place


@dataclass(frozen=True)
class Command:
    """One entry of the palette."""

    title: str
    help: str
    run: Callable[[], Awaitable[object] | object]


class CommandProvider(Provider):
    """Offers the ``commands`` of a subclass: all at first, then those whose words match.

    ``WEIGHT`` is below 1 where others come first that match as well.
    """

    WEIGHT = 1.0

    @abstractmethod
    def commands(self) -> Iterable[Command]:
        """What is offered."""

    async def discover(self) -> Hits:
        """All commands, before anything is typed."""
        for command in self._once():
            yield DiscoveryHit(command.title, command.run, help=command.help)

    async def search(self, query: str) -> Hits:
        """Commands whose words match."""
        matcher = self.matcher(query)
        for command in self._once():
            if (score := matcher.match(command.title)) > 0:
                title = matcher.highlight(command.title)
                yield Hit(self.WEIGHT * score, title, command.run, help=command.help)

    def _once(self) -> Iterable[Command]:
        """Each title once: several keys may do the same."""
        return {command.title: command for command in self.commands()}.values()

    def key_help(self, binding: Binding, tooltip: str = "") -> str:
        """The key of a binding, after what its description leaves out."""
        words = tooltip or binding.tooltip
        key = f"key {self.app.get_key_display(binding)}"
        return key if words in ("", binding.description) else f"{words} ({key})"


class KeyCommands(CommandProvider):
    """Each active binding that has an id. Bindings of library widgets have none."""

    def commands(self) -> Iterable[Command]:
        """The keys of the screen, of what is in focus and of the app."""
        for active in self.screen.active_bindings.values():
            if active.binding.id and active.enabled:
                run = partial(self.app.run_action, active.binding.action, active.node)
                help_text = self.key_help(active.binding, active.tooltip)
                yield Command(active.binding.description, help_text, run)


class PlaceCommands(CommandProvider):
    """The keys of the places that are not shown."""

    WEIGHT = 0.8

    async def startup(self) -> None:
        """Import the screens beside the event loop: a key must not wait for it."""
        for place in PLACES:
            await asyncio.to_thread(place.screen_class)

    def commands(self) -> Iterable[Command]:
        """Each key that a place's own class declares, with the place before it."""
        for place in PLACES:
            if not isinstance(self.screen, place.screen_class()):
                yield from self._of(place)

    def _of(self, place: Place) -> Iterable[Command]:
        for binding in Binding.make_bindings(vars(place.screen_class()).get("BINDINGS", ())):
            # Its own app-wide commands (Home's new run) are offered by their places.
            if binding.id and not binding.action.startswith("app."):
                wanted = PlaceWanted(place.mode, {}, binding.action)
                yield Command(
                    f"{place.title}: {binding.description}",
                    self.key_help(binding),
                    partial(self.app.post_message, wanted),
                )
