"""Keep pauses of the interpreter shorter than a keypress may wait.

Python's full garbage collection looks at every object there is: with all places open that
takes half a second. Widgets, styles and modules live as long as the app, so they are put
aside, where no collection looks, as soon as they stand. Full collections of the rest wait
until nobody has pressed a key for a while.
"""

from __future__ import annotations

import asyncio
import gc
import importlib
import sys
import time

SWITCH_INTERVAL_S = 0.001
YOUNG = 1  # the generations below the oldest
THRESHOLDS = (2000, 10, 1_000_000)  # the last: no full collection by itself
WORTHWHILE = 10  # collections of the young since the last full one
BREATH_S = 0.01  # between two pieces of work that nobody waits for
PRESSED_S = 0.25  # so long after a key its effect is drawn, and maybe the next one comes

_last_input = time.monotonic()


def before_start() -> None:
    """Let no thread hold up a key for longer, and collect nothing while the app starts."""
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    gc.set_threshold(*THRESHOLDS)
    gc.disable()


def put_aside() -> None:
    """Let collections skip all that lives now. What is young garbage goes first."""
    gc.collect(YOUNG)
    gc.freeze()
    gc.enable()


def tidy() -> None:
    """A full collection, if there may be something to collect."""
    if gc.get_count()[2] >= WORTHWHILE:
        gc.collect()
        gc.freeze()


def note_input() -> None:
    """A key was pressed, or the mouse was used."""
    global _last_input
    _last_input = time.monotonic()


def since_input() -> float:
    """Seconds since the last key."""
    return time.monotonic() - _last_input


async def breathe() -> None:
    """Let keys through, and wait until nobody presses one: for work that can wait."""
    await asyncio.sleep(BREATH_S)
    while since_input() < PRESSED_S:
        await asyncio.sleep(BREATH_S)


def import_plot() -> None:
    """Import what the first run that is opened would wait for; it loads numpy."""
    importlib.import_module("tui.widgets.loss_plot")
