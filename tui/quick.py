"""What keeps every key quick: all tuning of latency, behind ``QuickApp`` and ``QuickScreen``.

Four things would make a key wait, and each is dealt with here.

    garbage      Python's full collection looks at every object there is: half a second with
                 all places open. Widgets, styles and modules live as long as the app, so
                 they are put aside, where no collection looks, as soon as they stand. Full
                 collections of the rest wait until nobody has pressed a key for a while.
    first visit  A place is mounted, laid out and drawn once before it is visited, in pieces
                 that are short beside the wait that a key may have, and none while somebody
                 types. It learns that it is shown only when it is: what it reads from the
                 disk or asks of a child waits until then.
    switching    Textual draws nothing for 50 ms after a switch, so that a screen is not seen
                 while it is built; here, until it has been built.
    styles       A screen keeps its styles while another one is shown. Textual makes those of
                 every widget anew each time; a theme or a size that has changed meanwhile is
                 taken over without that.

With ``App`` and ``Screen`` in their place the app does the same, more slowly. Textual has no
public way to build a screen before it is shown: ``App._register``, ``Screen._refresh_layout``,
``_layout_required`` and ``_css_update_count`` are those of its private names that we rely on
(``tests/tui/test_quick.py`` watches them).
"""

from __future__ import annotations

import asyncio
import gc
import importlib
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Any

from rich.console import RenderableType
from textual import work
from textual.app import App
from textual.events import Event, InputEvent, ScreenResume
from textual.screen import Screen
from textual.widget import AwaitMount, Widget

from tui.places import PLACES

SWITCH_INTERVAL_S = 0.001  # between threads of the interpreter
YOUNG = 1  # the generations of garbage below the oldest
THRESHOLDS = (2000, 10, 1_000_000)  # the last: no full collection by itself
WORTHWHILE = 10  # collections of the young since the last full one
BREATH_S = 0.01  # between two pieces of work that nobody waits for
PRESSED_S = 0.25  # so long after a key its effect is drawn, and maybe the next one comes
BUILD_AFTER_S = 0.3  # after the app has started: the first frame is there
SETTLE_S = 1.5  # after the first frame, or the first visit of a place
QUIET_S = 5.0  # without a key or the mouse: a pause will not be noticed
DRAWN_AT_ONCE = 5  # widgets
LAYOUTS = 3  # at most: what has learned its size may want another one
# What the first run that is opened would wait for; it loads numpy.
PLOT = "tui.widgets.loss_plot"


def before_start() -> None:
    """Let no thread hold up a key for longer, and collect nothing while the app starts."""
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    gc.set_threshold(*THRESHOLDS)
    gc.disable()


class QuickApp(App[None]):
    """An app whose places are built before they are visited, and shown as soon as they stand.

    Args:
        own_process: nothing else runs here, so that pauses of the interpreter may be tuned,
            and places built ahead.
    """

    def __init__(self, *, own_process: bool = False) -> None:
        super().__init__()
        self._own_process = own_process
        self._last_input = time.monotonic()
        self._visited: set[str] = set()
        self._switching = False
        self._building = False
        self._leave: Callable[[], None] | None = None

    def on_mount(self) -> None:
        """Plan what is done while nobody waits."""
        if self._own_process:
            self.set_timer(BUILD_AFTER_S, self._build_places)
            self.set_interval(QUIET_S, self._tidy)
        self._settle_soon()

    async def on_event(self, event: Event) -> None:
        """Note when somebody is there; everything else is Textual's."""
        if isinstance(event, InputEvent):
            self._last_input = time.monotonic()
        await super().on_event(event)

    def exit(
        self,
        result: None = None,
        return_code: int = 0,
        message: RenderableType | None = None,
    ) -> None:
        """Leave, as soon as no screen is half built: such a one cannot be taken down."""
        leave = partial(super().exit, result, return_code, message)
        if self._building:
            self._leave = leave
        else:
            leave()

    def show_place(self, mode: str) -> None:
        """Switch to a place; what it looks like before it stands is not seen."""
        with ExitStack() as hidden:
            hidden.enter_context(self.batch_update())
            self._switching = True
            try:
                self.switch_mode(mode)
            finally:
                self._switching = False
            shown = hidden.pop_all()
        # The screen comes to this once it is mounted, and behind what the switch has sent.
        self.screen.call_later(self._end_switch, shown)
        if mode not in self._visited:
            self._visited.add(mode)
            self._settle_soon()

    def delay_update(self, delay: float = 0.05) -> None:
        """Hide what a change of screens looks like, unless we do that ourselves."""
        if not self._switching:
            super().delay_update(delay)

    async def breathe(self) -> None:
        """Let keys through, and wait until nobody presses one: for work that can wait."""
        await asyncio.sleep(BREATH_S)
        while self._since_input() < PRESSED_S:
            await asyncio.sleep(BREATH_S)

    def _end_switch(self, hidden: ExitStack) -> None:
        hidden.close()
        self.screen.refresh()

    def _since_input(self) -> float:
        return time.monotonic() - self._last_input

    @work(group="build")
    async def _build_places(self) -> None:
        """Get the places ready that were not visited yet, while nobody presses a key."""
        for place in PLACES:
            await asyncio.to_thread(place.screen_class)
            await self.breathe()
            self._building = True
            await self._build(self.get_screen(place.mode))
            self._building = False
            if self._leave:
                self._leave()
                return
            await self.breathe()
            _put_aside()
        await asyncio.to_thread(importlib.import_module, PLOT)
        _put_aside()

    async def _build(self, screen: Screen[Any]) -> None:
        """Mount ``screen``, lay it out and draw it once, unless it is in use already.

        Textual does all this when a screen is shown, and the app takes no key meanwhile.
        """
        if screen.is_running:
            return
        self._register(self, screen)
        await AwaitMount(screen, [screen])
        await self.breathe()
        for _ in range(LAYOUTS):
            if screen.stack_updates:
                # It is shown by now.
                return
            screen._refresh_layout(self.size)
            screen._layout_required = False
            await self.breathe()
            if not screen._layout_required:
                break
        for number, widget in enumerate(screen.walk_children(Widget)):
            if number % DRAWN_AT_ONCE == 0:
                await self.breathe()
            if widget.is_attached and widget.size:
                # Its lines stay in the widget's cache.
                widget.render_lines(widget.size.region)

    def _settle_soon(self) -> None:
        if self._own_process:
            self.set_timer(SETTLE_S, _put_aside)

    def _tidy(self) -> None:
        """A full collection, if nobody is there and there may be something to collect."""
        if self._since_input() > QUIET_S and gc.get_count()[2] >= WORTHWHILE:
            gc.collect()
            gc.freeze()


class QuickScreen(Screen[None]):
    """A screen that can be built ahead, and keeps its styles while another one is shown.

    A new one begins with the classes of the app's breakpoints, and so is styled once, too.
    """

    def __init__(self) -> None:
        super().__init__()
        # What the sheet says now is what its widgets get when they are mounted.
        self._css_update_count = self.app._css_update_count
        app, size = self.app, self.app.size
        for limits, length in (
            (app.HORIZONTAL_BREAKPOINTS, size.width),
            (app.VERTICAL_BREAKPOINTS, size.height),
        ):
            reached = [name for limit, name in sorted(limits or ()) if length >= limit]
            self.set_class(True, *reached[-1:])

    async def on_event(self, event: Event) -> None:
        """Come back with the styles that the screen has."""
        if isinstance(event, ScreenResume):
            event.refresh_styles = False
        await super().on_event(event)

    async def mount_composed_widgets(self, widgets: list[Widget]) -> None:
        """Let keys through after each widget, unless somebody waits for them."""
        app = self.app
        if self.is_current or not isinstance(app, QuickApp):
            await super().mount_composed_widgets(widgets)
            return
        for widget in widgets:
            await self.mount(widget)
            if not self.is_current:
                await app.breathe()


def _put_aside() -> None:
    """Let collections skip all that lives now. What is young garbage goes first."""
    gc.collect(YOUNG)
    gc.freeze()
    gc.enable()
