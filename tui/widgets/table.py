"""A table of text whose columns are drawn as wide as they are."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

from rich.text import Text
from textual.widgets import DataTable

AT_ONCE = 40  # rows that are added before a key may come through


class Table(DataTable[Text]):
    """``DataTable`` measures new rows when it is idle, and keeps lines drawn before that.

    Such lines are cut to the width of the column's title and stay so until the table is
    resized, so lines are drawn again whenever the measured size changes.
    """

    _coming: Iterator[tuple[str, Sequence[Text]]] = iter(())

    def fill(self, rows: Iterable[tuple[str, Sequence[Text]]]) -> None:
        """Replace all rows by these, each with its key, some at a time."""
        self.clear()
        self._coming = iter(rows)
        self._add(self._coming)

    def _add(self, rows: Iterator[tuple[str, Sequence[Text]]]) -> None:
        if rows is not self._coming:
            # Others are wanted by now.
            return
        added = 0
        for key, cells in islice(rows, AT_ONCE):
            self.add_row(*cells, key=key)
            added += 1
        if added == AT_ONCE:
            self.call_after_refresh(self._add, rows)

    def watch_virtual_size(self) -> None:
        """Forget what was drawn with other widths."""
        self.notify_style_update()
