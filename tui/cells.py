"""Cells of tables: text in a colour of the theme.

A ``DataTable`` measures Rich text and not ``Content``, and Rich knows no theme
variables, so the colour is looked up here.
"""

from __future__ import annotations

from typing import Any

from rich.style import Style
from rich.text import Text
from textual.app import App
from textual.color import Color

GOOD, WARNING, BAD, ACCENT, MUTED = (
    "text-success",
    "text-warning",
    "text-error",
    "text-accent",
    "foreground-muted",
)


def cell(words: str, app: App[Any] | None = None, colour: str = "") -> Text:
    """``words`` on one line, in the theme's ``colour`` if one is named."""
    line = words if "\n" not in words else " ".join(words.split())
    if app is None or not colour:
        return Text(line)
    return Text(line, style=Style(color=Color.parse(app.theme_variables[colour]).rich_color))
