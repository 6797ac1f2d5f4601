"""XLSX: read row by row (``workbook``), written by adding cells to the sheet's own XML.

All else in the file stays as it is, byte for byte: formulas, formats, other sheets.
"""

from __future__ import annotations

import contextlib
import datetime
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import ParseError

from ecellm_mlx.errors import DataError
from ecellm_mlx.files import open_atomic
from ecellm_mlx.tables import header
from ecellm_mlx.tables.base import BadRow, Column, Table, TableRow, Value, Writer
from ecellm_mlx.tables.sheet_xml import SheetEditor, sheet_width
from ecellm_mlx.tables.workbook import Workbook, opened

COPY_BYTES = 1024 * 1024


class XlsxTable(Table):
    """One sheet of a workbook.

    Columns are those of its header, and as many without a title as rows have cells behind
    it. New ones stand to the right of every cell, also of empty ones that have a format.

    Args:
        path: the file.
        sheet: its name; the first sheet when not given.
        header_row: the row of its titles, from 1, instead of what is detected.

    Raises:
        DataError: it is no workbook, or has no such sheet, or the sheet has no header.
    """

    unit = "row"

    def __init__(
        self, path: Path, *, sheet: str | None = None, header_row: int | None = None
    ) -> None:
        super().__init__(path)
        with opened(path) as book:
            if sheet is not None and sheet not in book.sheets:
                raise DataError(
                    f"{path} has no sheet {sheet!r}",
                    expected=f"one of {', '.join(book.sheets)}",
                )
            self._sheet = sheet if sheet is not None else next(iter(book.sheets))
            self._part = book.sheets[self._sheet]
            self._sheets = len(book.sheets)
            first = [
                (number, _trimmed(as_text(value) for value in values))
                for number, values in islice(
                    self._sheet_rows(book), header_row or header.SEARCHED
                )
            ]
        if header_row is not None:
            chosen = [row for row in first if row[0] == header_row]
        else:
            filled = [row for row in first if row[1]]
            chosen = filled[header.header_place([cells for _, cells in filled]) :]
        if not chosen or not chosen[0][1]:
            where = f"row {header_row}" if header_row else "its first rows"
            raise DataError(
                f"sheet {self._sheet!r} of {path} has no header in {where}",
                cure="name the row of the titles with --header-row, or another --sheet",
            )
        self._header_row, titles = chosen[0]
        self._above = sum(bool(cells) for number, cells in first if number < self._header_row)
        with zipfile.ZipFile(path) as archive, archive.open(self._part) as part:
            used, self._last = sheet_width(part)
        self.header = titles + [""] * (used - len(titles))

    def facts(self) -> dict[str, str]:
        """Sheet and columns."""
        return {
            "format": "XLSX" if self.path.suffix.lower() == ".xlsx" else "XLSX with macros",
            "sheet": f"{self._sheet} (of {self._sheets})",
            "columns": str(len(self.header)),
            **header.facts(self._header_row, self._above),
        }

    def rows(self) -> Iterator[TableRow | BadRow]:
        """The rows that hold something; ``raw`` is the number of a row in its sheet."""
        width = len(self.header)
        with opened(self.path) as book:
            for number, values in self._sheet_rows(book):
                cells = _trimmed(as_text(value) for value in values)
                if number > self._header_row and cells:
                    yield TableRow(number, cells + [""] * (width - len(cells)), number)

    @contextlib.contextmanager
    def appender(
        self, out: Path, columns: Sequence[Column], *, as_utf8: bool = False
    ) -> Iterator[Writer]:
        """See ``Table``; rows that are not written keep their place without new cells."""
        with (
            zipfile.ZipFile(self.path) as source,
            open_atomic(out) as stream,
            zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as target,
        ):
            for info in source.infolist():
                if info.filename != self._part:
                    with source.open(info) as part, target.open(info, "w") as copy:
                        while block := part.read(COPY_BYTES):
                            copy.write(block)
            info = source.getinfo(self._part)
            with source.open(info) as part, target.open(info, "w", force_zip64=True) as edited:
                editor = SheetEditor(part, edited, width=self._last, added=len(columns))
                editor.add(self._header_row, [column.name for column in columns])
                writer = _Appender(editor)
                yield writer
                editor.finish()

    def _sheet_rows(self, book: Workbook) -> Iterator[tuple[int, list[Any]]]:
        try:
            yield from book.rows(self._sheet)
        except (ParseError, ValueError, KeyError, IndexError) as error:
            raise DataError(
                f"sheet {self._sheet!r} of {self.path} is damaged",
                got=str(error),
                cure="open it and save it again",
            ) from None


class _Appender(Writer):
    def __init__(self, editor: SheetEditor) -> None:
        self._editor = editor

    def write(self, row: TableRow, values: Sequence[Value]) -> None:
        self._editor.add(row.raw, values)


def _trimmed(cells: Iterable[str]) -> list[str]:
    """``cells`` up to the last that holds something."""
    trimmed = list(cells)
    while trimmed and not trimmed[-1]:
        trimmed.pop()
    return trimmed


def as_text(value: Any) -> str:
    """A cell's value as text; of a formula, the result that was saved with it."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() and abs(value) < 1e15 else repr(value)
    if isinstance(value, datetime.datetime) and value.time() == datetime.time():
        return value.date().isoformat()
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    return str(value)
