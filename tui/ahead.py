"""Build a screen before it is visited, so that a first visit shows a screen that stands.

All of it is done in pieces that are short beside the wait that a key may have, and none
while somebody types. The screen learns that it is shown only when it is: what it reads
from the disk or asks of a child waits until then.
"""

from __future__ import annotations

from typing import Any

from textual.app import App
from textual.screen import Screen
from textual.widget import AwaitMount, Widget

from tui import pauses

DRAWN_AT_ONCE = 5  # widgets
LAYOUTS = 3


class Gradual(Widget):
    """Mounts what it is composed of one by one, while its screen is not shown yet."""

    async def mount_composed_widgets(self, widgets: list[Widget]) -> None:
        """Let keys through after each widget, unless somebody waits for them."""
        if self.screen.is_current:
            await super().mount_composed_widgets(widgets)
            return
        for widget in widgets:
            await self.mount(widget)
            if not self.screen.is_current:
                await pauses.breathe()


async def build(app: App[Any], screen: Screen[Any]) -> None:
    """Mount ``screen``, lay it out and draw it once, unless it is in use already.

    Textual does all this when a screen is shown, and the app takes no key meanwhile. It
    has no public way to do it before: the three names with an underscore are those of
    Textual that we rely on here (``tests/tui/test_ahead.py`` watches them).
    """
    if screen.is_running:
        return
    app._register(app, screen)
    await AwaitMount(screen, [screen])
    await pauses.breathe()
    for _ in range(LAYOUTS):
        if screen.stack_updates:
            # It is shown by now.
            return
        screen._refresh_layout(app.size)
        screen._layout_required = False
        # What has learned its size may want another one.
        await pauses.breathe()
        if not screen._layout_required:
            break
    for number, widget in enumerate(screen.walk_children(Widget)):
        if number % DRAWN_AT_ONCE == 0:
            await pauses.breathe()
        if widget.is_attached and widget.size:
            # Its lines stay in the widget's cache.
            widget.render_lines(widget.size.region)
