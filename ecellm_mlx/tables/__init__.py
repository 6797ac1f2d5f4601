"""Read, extend and write product tables as they are: CSV, TSV, JSON Lines, Parquet, XLSX.

    table = open_table(Path("shop.csv"))
    table.facts()                       # what was detected, for a person
    for row in table.rows(): ...        # TableRow or BadRow, streaming

Every format streams: memory does not grow with the number of rows.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from ecellm_mlx.errors import DataError, UsageError
from ecellm_mlx.tables import plain
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
from ecellm_mlx.tables.delimited import DelimitedTable
from ecellm_mlx.tables.jsonl import JsonLinesTable
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

DELIMITED = (".csv", ".tsv", ".txt")
JSON_LINES = (".jsonl", ".ndjson")


def open_table(
    path: Path,
    *,
    encoding: str | None = None,
    delimiter: str | None = None,
    sheet: str | None = None,
) -> Table:
    """Open a table by its ending and find out how it is written down.

    Args:
        path: a ``.csv``, ``.tsv``, ``.txt``, ``.jsonl``, ``.ndjson``, ``.parquet`` or
            ``.xlsx`` file.
        encoding, delimiter: of a CSV or TSV file, instead of what is detected.
        sheet: of a workbook; the first one when not given.

    Raises:
        DataError: missing, unreadable, of another format, or without a header.
        UsageError: an option that the format does not have.
    """
    kind = path.suffix.lower()
    if (encoding or delimiter) and kind not in DELIMITED:
        raise UsageError(
            "--encoding and --delimiter are for CSV and TSV files", got=path.suffix
        )
    if sheet and kind != ".xlsx":
        raise UsageError("--sheet is for XLSX files", got=path.suffix)
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
        if kind in DELIMITED:
            return DelimitedTable(path, encoding=encoding, delimiter=delimiter)
        if kind in JSON_LINES:
            return JsonLinesTable(path)
        if kind == ".parquet":
            return ParquetTable(path)
        if kind == ".xlsx":
            return XlsxTable(path, sheet=sheet)
    except OSError as error:
        raise DataError(f"{path} cannot be read", got=(error.strerror or "").lower()) from None
    raise plain.unknown(path)


@contextlib.contextmanager
def writer(
    table: Table, out: Path, columns: Sequence[Column], *, as_utf8: bool = False
) -> Iterator[Writer]:
    """Writes ``table`` to ``out`` with ``columns`` appended, as the ending of ``out`` says.

    In the table's own format untouched cells are copied exactly; in another one they are
    written as text.
    """
    same = _family(table.path) == _family(out)
    if same:
        with table.appender(out, columns, as_utf8=as_utf8) as own:
            yield own
        return
    with plain.create(out, [*(Column(name) for name in table.names), *columns]) as lines:
        yield plain.Converting(lines)


def _family(path: Path) -> str:
    kind = path.suffix.lower()
    if kind == ".txt":
        kind = ".csv"
    return ".jsonl" if kind in JSON_LINES else kind
