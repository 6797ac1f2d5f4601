"""Read, extend and write product tables as they are: CSV, TSV, JSON, Parquet, XLSX, feeds.

    table = open_table(Path("shop.csv"))
    table.facts()                       # what was detected, for a person
    for row in table.rows(): ...        # TableRow or BadRow, streaming

Every format streams: memory does not grow with the number of rows. Knows bytes and cells;
which column is which field is guessed here, what is done with it is not known.

    text       a cell as a person reads it
    base       what every format offers
    endings    what the ending of a name says
    header     which of the first rows is the header
    delimited  CSV and TSV, as bytes
    encoding   which encoding a text is in
    lines      lines as bytes, in constant memory
    jsonl      JSON Lines and JSON arrays
    parquet    Parquet
    xlsx       workbooks, written by adding cells to their XML
    workbook   cells of a workbook, in constant memory
    sheet_xml  cells added to a sheet's XML while it is copied
    spill      texts on disk, by index
    feed       product feeds: RSS and Atom
    plain      a new table in any format
    guess      which column is which field
    mapping    from columns to the fields of a task
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from ecellm_mlx.errors import DataError, UsageError
from ecellm_mlx.tables import endings, plain
from ecellm_mlx.tables.base import (
    BadRow,
    Column,
    EncodingGap,
    Table,
    TableRow,
    Value,
    Writer,
    addresses,
    no_rows,
)
from ecellm_mlx.tables.delimited import QUOTES, DelimitedTable
from ecellm_mlx.tables.feed import FeedTable
from ecellm_mlx.tables.jsonl import JsonArrayTable, JsonLinesTable, is_array
from ecellm_mlx.tables.parquet import ParquetTable
from ecellm_mlx.tables.xlsx import XlsxTable

__all__ = [
    "BadRow",
    "Column",
    "EncodingGap",
    "Table",
    "TableRow",
    "Value",
    "Writer",
    "addresses",
    "no_rows",
    "open_table",
    "writer",
]


def open_table(
    path: Path,
    *,
    encoding: str | None = None,
    delimiter: str | None = None,
    quote: str | None = None,
    sheet: str | None = None,
    header_row: int | None = None,
) -> Table:
    """Open a table by its ending and find out how it is written down.

    Args:
        path: a file whose ending is one of ``endings.READABLE``; text tables also packed,
            as ``.csv.gz``.
        encoding, delimiter: of a CSV or TSV file, instead of what is detected.
        quote: likewise, one of ``delimited.QUOTES``: how its cells are quoted.
        sheet: of a workbook; the first one when not given.
        header_row: line of a text file or row of a sheet that holds the titles, from 1;
            what stands above is copied.

    Raises:
        DataError: missing, unreadable, of another format, or without a header.
        UsageError: an option that the format does not have.
    """
    kind = endings.ending(path)
    if (encoding or delimiter or quote) and kind not in endings.DELIMITED:
        raise UsageError(
            "--encoding, --delimiter and --quote are for CSV and TSV files", got=path.suffix
        )
    if sheet and kind not in endings.WORKBOOKS:
        raise UsageError("--sheet is for XLSX files", got=path.suffix)
    if header_row is not None:
        if kind not in (*endings.DELIMITED, *endings.WORKBOOKS):
            raise UsageError("--header-row is for CSV, TSV and XLSX files", got=path.suffix)
        if header_row < 1:
            raise UsageError("--header-row counts from 1", got=str(header_row))
    if quote is not None and quote not in QUOTES:
        raise UsageError(f"--quote {quote} is unknown", expected=f"one of {', '.join(QUOTES)}")
    if delimiter is not None:
        delimiter = {"tab": "\t", "\\t": "\t"}.get(delimiter, delimiter)
        if len(delimiter) != 1 or delimiter in '"\r\n':
            raise UsageError(
                f"--delimiter {delimiter!r} is no delimiter", expected="one character"
            )
    try:
        if path.is_dir():
            raise DataError(f"{path} is a folder", expected="a table", cure="name a file in it")
        if not path.exists():
            raise DataError(f"{path} does not exist", cure="check the path")
        if path.stat().st_size == 0:
            raise DataError(f"{path} is empty", cure="export the table again")
        if kind in endings.DELIMITED:
            return DelimitedTable(
                path,
                encoding=encoding,
                delimiter=delimiter,
                quote=quote,
                header_line=header_row,
            )
        if kind in endings.JSON:
            return JsonArrayTable(path) if is_array(path) else JsonLinesTable(path)
        if kind == ".parquet":
            return ParquetTable(path)
        if kind in endings.WORKBOOKS:
            return XlsxTable(path, sheet=sheet, header_row=header_row)
        if kind == ".xml":
            return FeedTable(path)
    except OSError as error:
        raise DataError(f"{path} cannot be read", got=(error.strerror or "").lower()) from None
    raise endings.unknown(path)


@contextlib.contextmanager
def writer(
    table: Table, out: Path, columns: Sequence[Column], *, as_utf8: bool = False
) -> Iterator[Writer]:
    """Writes ``table`` to ``out`` with ``columns`` appended, as the ending of ``out`` says.

    In the table's own format untouched cells are copied exactly; in another one they are
    written as text.
    """
    if table.writes_as(out):
        with table.appender(out, columns, as_utf8=as_utf8) as own:
            yield own
        return
    with plain.create(out, [*(Column(name) for name in table.names), *columns]) as lines:
        yield plain.Converting(lines)


def check_writable(table: Table, out: Path) -> None:
    """Refuse, before hours of work, a file that ``writer`` could not write.

    Raises:
        DataError: the ending names no format that can be written.
        EcellmError: what the format needs is not installed.
    """
    if not table.writes_as(out):
        plain.check(out)
