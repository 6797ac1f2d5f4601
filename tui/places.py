"""The places of the app: one table, from which all that leads to them is made.

The line at the top, the function keys, jump mode, the palette, the help and the tests read
``PLACES``; a place is added by its line there and its screen. A screen's module is imported
when its place is first visited, so that the first frame waits for one screen only.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from textual.screen import Screen

HELP_KEY = "f1"
FIRST_KEY, LAST_KEY = 2, 12  # function keys


@dataclass(frozen=True)
class Place:
    """A screen that a function key leads to.

    ``mode`` is its name in ``App.MODES``, ``short`` the title where the line of places is
    narrow, ``screen`` is ``module:class``.
    """

    mode: str
    title: str
    short: str
    screen: str

    @property
    def key(self) -> str:
        """The function key, by the place's position in the table."""
        return f"f{FIRST_KEY + PLACES.index(self)}"

    @property
    def key_label(self) -> str:
        """The function key as people write it."""
        return self.key.upper()

    def screen_class(self) -> type[Screen[Any]]:
        """The class of the screen, imported now."""
        module, _, name = self.screen.partition(":")
        screen: type[Screen[Any]] = getattr(importlib.import_module(module), name)
        return screen

    def opener(self) -> Callable[[], Screen[Any]]:
        """What ``App.SCREENS`` calls to make it."""
        return lambda: self.screen_class()()


PLACES = (
    Place("home", "Home", "Home", "tui.screens.home:HomeScreen"),
    Place("models", "Models", "Models", "tui.screens.models:ModelsScreen"),
    Place("data", "Data", "Data", "tui.screens.data:DataScreen"),
    Place("train", "Train", "Train", "tui.screens.train:TrainScreen"),
    Place("evaluate", "Evaluate", "Eval", "tui.screens.evaluate:EvaluateScreen"),
    Place("playground", "Playground", "Play", "tui.screens.playground:PlaygroundScreen"),
    Place("catalog", "Catalog", "Catalog", "tui.screens.catalog:CatalogScreen"),
    Place("adapters", "Adapters", "Adapt", "tui.screens.adapters:AdaptersScreen"),
)
assert FIRST_KEY + len(PLACES) - 1 <= LAST_KEY, "there are no function keys left"


def find(mode: str) -> Place:
    """The place of that name."""
    return next(place for place in PLACES if place.mode == mode)
