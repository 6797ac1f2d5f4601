"""The command palette: every key binding of ours, by its words."""

from __future__ import annotations

from functools import partial
from typing import Any

from textual.binding import ActiveBinding
from textual.command import DiscoveryHit, Hit, Hits, Provider


class KeyCommands(Provider):
    """Offers each active binding that has an id. Bindings of library widgets have none."""

    async def discover(self) -> Hits:
        """All commands, before anything is typed."""
        for title, active, run in self._commands():
            yield DiscoveryHit(title, run, help=self._help(active))

    async def search(self, query: str) -> Hits:
        """Commands whose words match."""
        matcher = self.matcher(query)
        for title, active, run in self._commands():
            if (score := matcher.match(title)) > 0:
                yield Hit(score, matcher.highlight(title), run, help=self._help(active))

    def _commands(self) -> list[tuple[str, ActiveBinding, Any]]:
        return [
            (
                active.binding.description,
                active,
                partial(self.app.run_action, active.binding.action, active.node),
            )
            for active in self.screen.active_bindings.values()
            if active.binding.id and active.enabled
        ]

    def _help(self, active: ActiveBinding) -> str:
        key = self.app.get_key_display(active.binding)
        return f"{active.tooltip or active.binding.description} (key {key})"
