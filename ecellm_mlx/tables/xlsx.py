"""XLSX: read row by row (``workbook``), written by adding cells to the sheet's own XML.

All else in the file stays as it is, byte for byte: formulas, formats, other sheets.
"""

from __future__ import annotations

import contextlib
import datetime
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import ParseError

from ecellm_mlx.errors import DataError
from ecellm_mlx.files import open_atomic
from ecellm_mlx.tables.base import BadRow, Column, Table, TableRow, Value, Writer
from ecellm_mlx.tables.sheet_xml import SheetEditor
from ecellm_mlx.tables.workbook import Workbook, opened

COPY_BYTES = 1024 * 1024


class XlsxTable(Table):
    """One sheet of a workbook; its first row is the header.

    Args:
        path: the file.
        sheet: its name; the first sheet when not given.

    Raises:
        DataError: it is no workbook, or has no such sheet, or the sheet is empty.
    """

    unit = "row"

    def __init__(self, path: Path, *, sheet: str | None = None) -> None:
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
            number, first = next(self._sheet_rows(book), (1, []))
        if number > 1:
            first = []
        titles = [as_text(value) for value in first]
        while titles and not titles[-1]:
            titles.pop()
        if not titles:
            raise DataError(f"sheet {self._sheet!r} of {path} has no header in its first row")
        self.header = titles

    def facts(self) -> dict[str, str]:
        """Sheet and columns."""
        return {
            "format": "XLSX",
            "sheet": f"{self._sheet} (of {self._sheets})",
            "columns": str(len(self.header)),
        }

    def rows(self) -> Iterator[TableRow | BadRow]:
        """The rows that hold something; ``raw`` is the number of a row in its sheet."""
        width = len(self.header)
        with opened(self.path) as book:
            for number, values in self._sheet_rows(book):
                cells = [as_text(value) for value in values]
                if number == 1 or not any(cells):
                    continue
                extra = [cell for cell in cells[width:] if cell]
                if extra:
                    yield BadRow(
                        number,
                        f"{width + len(extra)} cells instead of {width}",
                        "\t".join(cells).encode(),
                    )
                    continue
                cells = cells[:width]
                cells += [""] * (width - len(cells))
                yield TableRow(number, cells, number)

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
                editor = SheetEditor(part, edited, width=len(self.header), added=len(columns))
                editor.add(1, [column.name for column in columns])
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
