"""Read and write product tables as they are.

CSV and TSV: encoding and delimiter are found out and reported, every cell is kept
as text, and the written table has the same encoding, delimiter and line ends.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ecellm_mlx.errors import DataError
from ecellm_mlx.files import write_atomic

ENCODINGS = ("utf-8-sig", "cp1252")
DELIMITERS = ",;\t|"
SUFFIXES = (".csv", ".tsv", ".txt")


@dataclass(frozen=True)
class Dialect:
    """How a table is written down."""

    encoding: str
    delimiter: str
    line_end: str


@dataclass(frozen=True)
class Table:
    """A header and rows of text; ``lines`` are the line numbers at which rows end."""

    path: Path
    dialect: Dialect
    header: list[str]
    rows: list[list[str]]
    lines: list[int]


def read(path: Path) -> Table:
    """Read a CSV or TSV file with a header.

    Raises:
        DataError: missing, empty, undecodable, without a usable header, or a row
            with another number of cells; names the line.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise DataError(
            f"{path} is no table that can be read",
            got=path.suffix or "no suffix",
            expected=", ".join(SUFFIXES),
            cure="export it as CSV",
        )
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise DataError(f"{path} does not exist", cure="check the path") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read", got=str(error.strerror)) from None
    text, encoding = _decode(path, data)
    first_line = text.split("\n", 1)[0]
    delimiter = max(DELIMITERS, key=first_line.count)
    line_end = "\r\n" if first_line.endswith("\r") else "\n"
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    rows, lines = [], []
    try:
        header = next(reader, [])
        for row in reader:
            if row:
                rows.append(row)
                lines.append(reader.line_num)
                if len(row) != len(header):
                    raise DataError.at(
                        path,
                        reader.line_num,
                        "the row does not match the header",
                        expected=f"{len(header)} cells",
                        got=f"{len(row)}",
                        cure="correct the row",
                    )
    except csv.Error as error:
        raise DataError.at(
            path, reader.line_num, f"no valid CSV ({error})", cure="correct the quoting"
        ) from None
    if len(set(header)) < len(header) or not header:
        raise DataError.at(
            path,
            1,
            "the header needs a different name for every column",
            got=", ".join(header) or "nothing",
            cure="add or rename the columns",
        )
    if not rows:
        raise DataError(f"{path} has a header and no rows", cure="add products")
    return Table(path, Dialect(encoding, delimiter, line_end), header, rows, lines)


def write(path: Path, dialect: Dialect, header: list[str], rows: Iterable[list[str]]) -> None:
    """Write a table in ``dialect``, whole or not at all."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, delimiter=dialect.delimiter, lineterminator=dialect.line_end)
    writer.writerow(header)
    writer.writerows(rows)
    # An answer may hold a character that the table's own encoding lacks.
    encoding = dialect.encoding
    try:
        data = text.getvalue().encode(encoding)
    except UnicodeEncodeError:
        data = text.getvalue().encode("utf-8-sig")
    write_atomic(path, data)


def _decode(path: Path, data: bytes) -> tuple[str, str]:
    if not data.strip():
        raise DataError(f"{path} is empty", cure="export the table again")
    if b"\0" in data[:4096]:
        raise DataError(
            f"{path} is no text table (it holds null bytes)", cure="export it as CSV in UTF-8"
        )
    for encoding in ENCODINGS:
        try:
            text = data.decode(encoding)
        except UnicodeDecodeError as error:
            problem = error
            continue
        # A byte order mark is written back only where there was one.
        plain = encoding == "utf-8-sig" and not data.startswith(b"\xef\xbb\xbf")
        return text, "utf-8" if plain else encoding
    raise DataError(
        f"{path} is neither UTF-8 nor Windows-1252",
        got=f"byte 0x{data[problem.start]:02x} at offset {problem.start}",
        cure="export it as UTF-8",
    )
