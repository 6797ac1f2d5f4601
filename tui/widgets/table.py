"""A table of text whose columns are drawn as wide as they are."""

from __future__ import annotations

from rich.text import Text
from textual.widgets import DataTable


class Table(DataTable[Text]):
    """``DataTable`` measures new rows when it is idle, and keeps lines drawn before that.

    Such lines are cut to the width of the column's title and stay so until the table is
    resized, so lines are drawn again whenever the measured size changes.
    """

    def watch_virtual_size(self) -> None:
        """Forget what was drawn with other widths."""
        self.notify_style_update()
