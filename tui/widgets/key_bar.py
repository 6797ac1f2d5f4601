"""The line at the bottom: the keys of the screen, and what each does.

One widget that draws text. Textual's own footer has a widget for each key and makes all
of them anew whenever the focus moves, which a key would wait for.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from textual import events
from textual.app import App
from textual.content import Content
from textual.screen import Screen
from textual.widget import Widget

GAP = "  "


@dataclass(frozen=True)
class ShownKey:
    """One key: its name, how it is shown, what it does, and the column it begins at."""

    key: str
    label: str
    words: str
    enabled: bool = True
    x: int = 0

    @property
    def width(self) -> int:
        """Columns that it takes."""
        return len(self.label) + 1 + len(self.words)


def fitting(keys: list[ShownKey], last: list[ShownKey], width: int) -> list[ShownKey]:
    """As many of ``keys`` as there is room for, then ``last`` at the right end."""
    tail = sum(key.width + len(GAP) for key in last)
    placed, x = [], 1
    for key in keys:
        if x + key.width > width - tail - 1:
            break
        placed.append(replace(key, x=x))
        x += key.width + len(GAP)
    x = max(x, width - tail + len(GAP) - 1)
    for key in last:
        placed.append(replace(key, x=x))
        x += key.width + len(GAP)
    return placed


class KeyBar(Widget):
    """Keys that are shown, those of the app at the right; a click does what the key does."""

    DEFAULT_CSS = """
    KeyBar { dock: bottom; height: 1; background: $panel; color: $foreground; }
    """

    def __init__(self) -> None:
        super().__init__()
        self._keys: list[ShownKey] = []
        self._last: list[ShownKey] = []

    def on_mount(self) -> None:
        """Follow the screen's bindings."""
        self.screen.bindings_updated_signal.subscribe(self, self._bindings_changed)

    def render(self) -> Content:
        """The keys in the colour of keys, what cannot be done now dimmed."""
        parts, x = [], 0
        for key in fitting(self._keys, self._last, self.size.width):
            parts.append(Content(" " * (key.x - x)))
            label, words = ("bold $text-accent", "") if key.enabled else ("dim", "dim")
            parts.append(Content.styled(key.label, label))
            parts.append(Content.styled(f" {key.words}", words))
            x = key.x + key.width
        return Content("").join(parts)

    def on_click(self, event: events.Click) -> None:
        """Press the key that was clicked."""
        for key in fitting(self._keys, self._last, self.size.width):
            if key.x <= event.x < key.x + key.width and key.enabled:
                self.app.simulate_key(key.key)

    def _bindings_changed(self, screen: Screen[object]) -> None:
        if screen is not self.screen:
            return
        own: list[ShownKey] = []
        of_app: list[ShownKey] = []
        yet = set()
        for node, binding, enabled, _tooltip in screen.active_bindings.values():
            palette = binding.key == self.app.COMMAND_PALETTE_BINDING
            if not (binding.show or palette) or binding.action in yet:
                continue
            yet.add(binding.action)
            words = "All commands" if palette else binding.description
            label = self.app.get_key_display(binding)
            keys = of_app if isinstance(node, App) else own
            keys.append(ShownKey(binding.key, label, words, enabled))
        if (own, of_app) != (self._keys, self._last):
            self._keys, self._last = own, of_app
            self.refresh()
