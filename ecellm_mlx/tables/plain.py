"""Write a new table in any format: text cells, and numbers where the format has them.

For what has no table of its own to be appended to: another format than the input's, the
review file, pairs of matched products.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any, Protocol

from ecellm_mlx.errors import DataError
from ecellm_mlx.tables import endings
from ecellm_mlx.tables.base import Column, TableRow, Value, Writer
from ecellm_mlx.tables.delimited import Dialect, Quoting
from ecellm_mlx.tables.encoding import Encoding
from ecellm_mlx.tables.parquet import BATCH_ROWS, Groups, arrow
from ecellm_mlx.tables.sheet_xml import FORBIDDEN

SHEET_ROWS = 1_048_576


class Lines(Protocol):
    """Takes rows of values."""

    def write(self, values: Sequence[Value]) -> None:
        """Write one row."""


@contextlib.contextmanager
def create(path: Path, columns: Sequence[Column]) -> Iterator[Lines]:
    """A writer for a new table; the file is there whole or not at all.

    Raises:
        DataError: the ending names no format that can be written.
    """
    kind = endings.ending(path)
    with endings.created(path) as stream:
        if kind in endings.DELIMITED:
            yield _Delimited(stream, columns, "\t" if kind in endings.TAB else ",")
        elif kind in endings.JSON_LINES:
            yield _JsonLines(stream, columns)
        elif kind == ".json":
            array = _JsonArray(stream, columns)
            yield array
            array.finish()
        elif kind == ".parquet":
            pa = arrow()
            schema = pa.schema(
                [(c.name, pa.float64() if c.numeric else pa.string()) for c in columns]
            )
            with pa.parquet.ParquetWriter(stream, schema) as file:
                writer = _Parquet(pa, Groups(pa, file), schema)
                yield writer
                writer.finish()
        elif kind == ".xlsx":
            with _sheet(stream, path, columns) as sheet:
                yield sheet
        else:
            raise endings.unknown(path, endings.WRITABLE)


def check(path: Path) -> None:
    """Refuse, before hours of work, a file that ``create`` could not write.

    Raises:
        DataError: the ending names no format that can be written.
        EcellmError: what the format needs is not installed.
    """
    kind = endings.ending(path)
    if kind not in endings.WRITABLE:
        raise endings.unknown(path, endings.WRITABLE)
    if kind == ".parquet":
        arrow()


class Converting(Writer):
    """Rows of a table of another format, as text."""

    def __init__(self, lines: Lines) -> None:
        self._lines = lines

    def write(self, row: TableRow, values: Sequence[Value]) -> None:
        """All cells of ``row``, then ``values``."""
        self._lines.write([*row.cells, *values])


class _Delimited:
    def __init__(self, stream: IO[bytes], columns: Sequence[Column], delimiter: str) -> None:
        self._stream = stream
        self._dialect = Dialect(Encoding("utf-8"), delimiter, Quoting(), False, "\n")
        self.write([column.name for column in columns])

    def write(self, values: Sequence[Value]) -> None:
        # A line of one empty cell would be no row.
        line = self._dialect.delimiter.join(map(self._dialect.cell, values)) or '""'
        self._stream.write((line + "\n").encode("utf-8", "surrogatepass"))


class _JsonLines:
    def __init__(self, stream: IO[bytes], columns: Sequence[Column]) -> None:
        self._stream, self._names = stream, [column.name for column in columns]

    def write(self, values: Sequence[Value]) -> None:
        self._stream.write((self._object(values) + "\n").encode())

    def _object(self, values: Sequence[Value]) -> str:
        item = {
            name: round(value, 4) if isinstance(value, float) else value
            for name, value in zip(self._names, values, strict=True)
        }
        return json.dumps(item, ensure_ascii=False)


class _JsonArray(_JsonLines):
    """The same objects as one array, an object a line."""

    _before = "[\n"

    def write(self, values: Sequence[Value]) -> None:
        self._stream.write((self._before + self._object(values)).encode())
        self._before = ",\n"

    def finish(self) -> None:
        """Close the array."""
        self._stream.write(b"[]\n" if self._before == "[\n" else b"\n]\n")


class _Parquet:
    def __init__(self, pa: Any, groups: Groups, schema: Any) -> None:
        self._arrow, self._groups, self._schema = pa, groups, schema
        self._rows: list[Sequence[Value]] = []

    def write(self, values: Sequence[Value]) -> None:
        self._rows.append(values)
        if len(self._rows) == BATCH_ROWS:
            self._complete()

    def finish(self) -> None:
        """Write the rows that are waiting."""
        self._complete()
        self._groups.flush()

    def _complete(self) -> None:
        if not self._rows:
            return
        arrays = [
            self._arrow.array([None if v == "" else v for v in column], field.type)
            for column, field in zip(zip(*self._rows, strict=True), self._schema, strict=True)
        ]
        self._groups.add(self._arrow.record_batch(arrays, schema=self._schema))
        self._rows.clear()


@contextlib.contextmanager
def _sheet(stream: IO[bytes], path: Path, columns: Sequence[Column]) -> Iterator[Lines]:
    from openpyxl import Workbook

    book = Workbook(write_only=True)
    sheet = _Sheet(book.create_sheet("products"), path)
    sheet.write([column.name for column in columns])
    yield sheet
    book.save(stream)


class _Sheet:
    def __init__(self, sheet: Any, path: Path) -> None:
        self._sheet, self._path, self._rows = sheet, path, 0

    def write(self, values: Sequence[Value]) -> None:
        from openpyxl.cell import WriteOnlyCell

        self._rows += 1
        if self._rows > SHEET_ROWS:
            raise DataError(
                f"{self._path} cannot hold more than {SHEET_ROWS:,} rows",
                cure="write a .csv or .parquet file instead",
            )
        cells = []
        for value in values:
            if isinstance(value, str):
                cell = WriteOnlyCell(self._sheet, FORBIDDEN.sub("\ufffd", value))
                # A title such as "=Love" is no formula.
                cell.data_type = "s"
                cells.append(cell)
            else:
                cells.append(value)
        self._sheet.append(cells)
