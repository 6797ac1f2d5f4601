"""Help: what a screen is for, and all its keys."""

from __future__ import annotations

from inspect import cleandoc
from typing import Any

from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import VerticalScroll
from textual.content import Content
from textual.screen import ModalScreen, Screen
from textual.widgets import Static

KEY_WIDTH = 12


class HelpScreen(ModalScreen[None]):
    """Shown over the screen that it explains."""

    BINDINGS = [Binding("escape,f1,q,enter", "dismiss", "Close", id="help.close")]

    def __init__(self, explained: Screen[Any]) -> None:
        super().__init__()
        paragraphs = cleandoc(explained.HELP or "").split("\n\n")
        self._about = "\n\n".join(" ".join(p.split()) for p in paragraphs)
        self._keys = [
            (active.binding, active.tooltip)
            for active in explained.active_bindings.values()
            if active.binding.id
        ]

    def compose(self) -> ComposeResult:
        """The text, then the keys."""
        with VerticalScroll(id="help") as box:
            box.border_title = "Help"
            box.border_subtitle = "esc close"
            yield Static(self._about, markup=False)
            yield Static(Content("\n").join(self._key_lines()), id="help-keys")

    def _key_lines(self) -> list[Content]:
        yet: set[str] = set()
        lines = []
        for binding, tooltip in self._keys:
            if binding.action not in yet:
                yet.add(binding.action)
                key = self.app.get_key_display(binding).ljust(KEY_WIDTH)
                words = tooltip or binding.description
                lines.append(Content.styled(key, "$text-accent bold") + Content(words))
        rest = [
            ("^p", "all commands, and the theme"),
            ("tab", "next field; shift+tab goes back"),
        ]
        for key, words in rest:
            lines.append(
                Content.styled(key.ljust(KEY_WIDTH), "$text-accent bold") + Content(words)
            )
        return lines
