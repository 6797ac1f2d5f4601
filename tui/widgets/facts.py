"""Names and values in as many columns as fit."""

from __future__ import annotations

from textual.content import Content
from textual.geometry import Size
from textual.widget import Widget

CELL_WIDTH = 19
LABEL_WIDTH = 10
# Content knows no automatic colours, so $text-muted has no effect in it.
MUTED = "$foreground 65%"


class Facts(Widget):
    """``label  value`` pairs, read row by row; one column where it is narrow."""

    DEFAULT_CSS = "Facts { height: auto; }"

    def __init__(self, *, columns: int | None = None, id: str | None = None) -> None:
        super().__init__(id=id)
        self._columns = columns
        self._pairs: list[tuple[str, str]] = []

    def show(self, pairs: list[tuple[str, str]]) -> None:
        """Draw ``pairs``."""
        if pairs != self._pairs:
            relayout = len(pairs) != len(self._pairs)
            self._pairs = pairs
            self.refresh(layout=relayout)

    def get_content_height(self, container: Size, viewport: Size, width: int) -> int:
        """One line for each row of cells."""
        return -(-len(self._pairs) // self._columns_at(width))

    def render(self) -> Content:
        """The cells, cut to their width so that columns stay aligned."""
        width = self.content_size.width
        columns = self._columns_at(width)
        cell = width // columns
        lines = [
            Content("").join(
                self._cell(label, value, cell) for label, value in self._pairs[i : i + columns]
            )
            for i in range(0, len(self._pairs), columns)
        ]
        return Content("\n").join(lines)

    def _columns_at(self, width: int) -> int:
        return self._columns or max(1, width // CELL_WIDTH)

    def _cell(self, label: str, value: str, width: int) -> Content:
        name = Content.styled(label.ljust(LABEL_WIDTH), MUTED)
        room = max(1, width - LABEL_WIDTH - 1)
        fact = Content.styled(value, "bold").truncate(room, ellipsis=True, pad=True)
        return name + fact + Content(" ")
