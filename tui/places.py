"""The eight places of the app: name, title, key and the screen behind it.

A screen's module is imported when its place is first visited, so that the first
frame waits for one screen only.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from textual.screen import Screen


@dataclass(frozen=True)
class Place:
    """A screen that a function key leads to. ``mode`` is its name in ``App.SCREENS``.

    ``short`` is the title where the line of places is narrow, ``screen`` is
    ``module:class``.
    """

    mode: str
    title: str
    short: str
    key: str
    screen: str

    def screen_class(self) -> type[Screen[Any]]:
        """The class of the screen, imported now."""
        module, _, name = self.screen.partition(":")
        found: type[Screen[Any]] = getattr(importlib.import_module(module), name)
        return found

    def opener(self) -> Callable[[], Screen[Any]]:
        """What ``App.SCREENS`` calls to make it."""
        return lambda: self.screen_class()()


PLACES = (
    Place("home", "Home", "Home", "f2", "tui.screens.home:HomeScreen"),
    Place("models", "Models", "Models", "f3", "tui.screens.models:ModelsScreen"),
    Place("data", "Data", "Data", "f4", "tui.screens.data:DataScreen"),
    Place("train", "Train", "Train", "f5", "tui.screens.train:TrainScreen"),
    Place("evaluate", "Evaluate", "Eval", "f6", "tui.screens.evaluate:EvaluateScreen"),
    Place("playground", "Playground", "Play", "f7", "tui.screens.playground:PlaygroundScreen"),
    Place("catalog", "Catalog", "Catalog", "f8", "tui.screens.catalog:CatalogScreen"),
    Place("adapters", "Adapters", "Adapt", "f9", "tui.screens.adapters:AdaptersScreen"),
)
