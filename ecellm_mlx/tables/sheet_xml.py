"""Add cells to the rows of a worksheet's XML while it is copied.

Literal ``</row>`` cannot stand in a cell's text, where ``<`` is escaped, so rows are found
without parsing what is between them; that text is copied byte for byte.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import IO
from xml.sax.saxutils import escape

from ecellm_mlx.tables.base import Value

CHUNK = 256 * 1024
ROW_END = re.compile(rb"</(?:\w+:)?row\s*>")
ROW_START = re.compile(rb"<((?:\w+:)?)row(?=[\s>])([^>]*)>")
NUMBER = re.compile(rb'\br="(\d+)"')
SPANS = re.compile(rb'\sspans="[^"]*"')
DIMENSION = re.compile(rb"<(?:\w+:)?dimension\s[^>]*/>")
# A cell: the letters of its place, and a slash if it has a format and nothing else.
CELL = re.compile(rb'<(?:\w+:)?c\s[^>]*?\br="([A-Z]{1,3})\d+"[^>]*?(/?)>')
# What XML 1.0 cannot hold, not even escaped.
FORBIDDEN = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


class SheetEditor:
    """Copies a sheet from ``source`` to ``target``; ``add`` must go down the sheet.

    Args:
        source, target: the sheet's XML in UTF-8.
        width: columns before the new ones.
        added: how many are new.
    """

    def __init__(self, source: IO[bytes], target: IO[bytes], *, width: int, added: int) -> None:
        self._source, self._target = source, target
        self._letters = [column_letters(width + 1 + n) for n in range(added)]
        self._buffer = b""
        self._number = 0
        self._in_head = True

    def add(self, number: int, values: Sequence[Value]) -> None:
        """Copy up to row ``number`` and add ``values`` to it."""
        while self._number < number:
            body, start, end = self._next_row()
            if self._number != number:
                self._target.write(body + end)
                continue
            # ``spans`` would no longer tell the truth; it is optional.
            opening = SPANS.sub(b"", start.group(0))
            body = body[: start.start()] + opening + body[start.end() :]
            cells = self._cells(start.group(1).decode(), number, values)
            self._target.write(body + cells.encode() + end)

    def finish(self) -> None:
        """Copy the rest."""
        self._target.write(self._buffer)
        while block := self._source.read(CHUNK):
            self._target.write(block)

    def _next_row(self) -> tuple[bytes, re.Match[bytes], bytes]:
        """What comes before the next ``</row>``, its opening tag, and its closing one."""
        searched = 0
        while not (closing := ROW_END.search(self._buffer, searched)):
            # A tag may be cut by the end of a block.
            searched = max(0, len(self._buffer) - 64)
            block = self._source.read(CHUNK)
            if not block:
                raise ValueError(f"the sheet ends after row {self._number}")
            self._buffer += block
        body, end = self._buffer[: closing.start()], closing.group(0)
        self._buffer = self._buffer[closing.end() :]
        if self._in_head:
            # The stated size is optional and no longer true.
            body, self._in_head = DIMENSION.sub(b"", body, count=1), False
        start = None
        # Rows without cells may stand before it, as <row r="5"/>.
        for row in ROW_START.finditer(body):
            given = NUMBER.search(row.group(2))
            self._number = int(given.group(1)) if given else self._number + 1
            start = row
        if start is None:
            raise ValueError(f"row {self._number + 1} has no beginning")
        return body, start, end

    def _cells(self, prefix: str, number: int, values: Sequence[Value]) -> str:
        cells = []
        for letters, value in zip(self._letters, values, strict=True):
            if value is None or value == "":
                continue
            place = f'{prefix}c r="{letters}{number}"'
            if isinstance(value, float):
                cells.append(f"<{place}><{prefix}v>{value:.4f}</{prefix}v></{prefix}c>")
                continue
            text = escape(FORBIDDEN.sub("\ufffd", value)).replace("\r", "&#13;")
            cells.append(
                f'<{place} t="inlineStr"><{prefix}is><{prefix}t xml:space="preserve">{text}'
                f"</{prefix}t></{prefix}is></{prefix}c>"
            )
        return "".join(cells)


def column_letters(number: int) -> str:
    """``A`` for 1, ``AA`` for 27."""
    letters = ""
    while number:
        number, rest = divmod(number - 1, 26)
        letters = chr(ord("A") + rest) + letters
    return letters


def sheet_width(source: IO[bytes]) -> tuple[int, int]:
    """The last column that holds something, and the last one that has a cell at all.

    Args:
        source: the sheet's XML.
    """
    seen: set[tuple[bytes, bytes]] = set()
    rest = b""
    while block := source.read(CHUNK):
        text = rest + block
        # A tag that the end of the block cuts is read with the next one.
        cut = text.rfind(b"<")
        text, rest = text[:cut], text[cut:]
        seen.update(CELL.findall(text))
    seen.update(CELL.findall(rest))
    used = max((column_number(letters) for letters, empty in seen if not empty), default=0)
    return used, max((column_number(letters) for letters, _ in seen), default=0)


def column_number(letters: bytes) -> int:
    """1 for ``A``, 27 for ``AA``."""
    number = 0
    for letter in letters:
        number = number * 26 + letter - ord("A") + 1
    return number
