"""CSV and TSV: records cut from the file's own bytes, and written back as those bytes.

A record keeps its raw bytes, line end included; appending cells touches nothing else.
Bytes are parsed as Latin-1, which maps each byte to one character and back, and cells are
decoded afterwards, so that a byte that is wrong spoils its own record only. A quotation
mark that is never closed costs one line: reading goes on with the line after it. Records
above the header (``header``) are copied; one empty cell more or less at the end of a record
is a habit of programs, and kept.
"""

from __future__ import annotations

import contextlib
import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import IO, Any

from ecellm_mlx.errors import DataError
from ecellm_mlx.tables import encoding as encodings
from ecellm_mlx.tables import endings, header
from ecellm_mlx.tables.base import BadRow, Column, EncodingGap, Table, TableRow, Value, Writer
from ecellm_mlx.tables.encoding import Encoding
from ecellm_mlx.tables.lines import raw_lines

DELIMITERS = (",", ";", "\t", "|")
DELIMITER_TITLES = {",": "comma", ";": "semicolon", "\t": "tab", "|": "bar"}
SNIFF_BYTES = 256 * 1024
SNIFF_RECORDS = 200
# Longest cell in bytes; a longer one is an unclosed quotation mark.
MAX_CELL = 1024 * 1024
LATIN_1 = "latin-1"  # one byte, one character


@dataclass(frozen=True)
class Quoting:
    """``mark`` encloses cells (empty: none does); ``escape`` precedes a mark inside one."""

    mark: str = '"'
    escape: str = ""

    def __str__(self) -> str:
        if not self.mark:
            return "none"
        inner = "after a backslash" if self.escape else "doubled"
        return f"{self.mark} (inside a cell {inner})"


QUOTINGS = (Quoting(), Quoting(escape="\\"), Quoting("'"), Quoting(""))
# As a person names them: --quote none.
QUOTES = {"double": Quoting(), "backslash": Quoting(escape="\\"), "single": Quoting("'"),
          "none": Quoting("")}  # fmt: skip


@dataclass(frozen=True)
class Dialect:
    """How a table is written down; ``quote_all`` if the header's cells are all quoted."""

    encoding: Encoding
    delimiter: str
    quoting: Quoting
    quote_all: bool
    line_end: str

    def options(self) -> dict[str, Any]:
        """For ``csv.reader``."""
        common = {"delimiter": self.delimiter, "strict": True}
        if not self.quoting.mark:
            return {**common, "quoting": csv.QUOTE_NONE}
        return {
            **common,
            "quotechar": self.quoting.mark,
            "escapechar": self.quoting.escape or None,
            # Without it, Python's strict reading lets text follow a closing mark.
            "doublequote": True,
        }

    def cell(self, value: Value) -> str:
        """A new cell as it is written."""
        if value is None or value == "":
            return ""
        text = value if isinstance(value, str) else f"{value:.4f}"
        mark, escape = self.quoting.mark, self.quoting.escape
        special = any(c in text for c in (self.delimiter, "\n", "\r"))
        if not mark:
            return text if not special else " ".join(text.replace(self.delimiter, " ").split())
        if not (special or mark in text or self.quote_all or text != text.strip()):
            return text
        inner = text.replace(escape, escape * 2) if escape else text
        return f"{mark}{inner.replace(mark, (escape or mark) + mark)}{mark}"


class DelimitedTable(Table):
    """A CSV or TSV file with a header.

    Args:
        path: the file.
        encoding, delimiter, quote, header_line: instead of what is detected; the line is
            counted from 1.

    Raises:
        DataError: it is no text, or has no header, or none at that line.
    """

    def __init__(
        self,
        path: Path,
        *,
        encoding: str | None = None,
        delimiter: str | None = None,
        quote: str | None = None,
        header_line: int | None = None,
    ) -> None:
        super().__init__(path)
        used = encodings.given(path, encoding) if encoding else encodings.detect(path)
        quotings = (QUOTES[quote],) if quote else QUOTINGS
        self.dialect = _sniff(path, used, delimiter, quotings)
        records = self._records()
        if header_line is None:
            first = list(islice(records, header.SEARCHED))
            place = header.header_place([_cells(record) for record in first])
        else:
            first = []
            for record in records:
                first.append(record)
                if record.line >= header_line:
                    break
            place = len(first) - 1
            if not first or first[-1].line != header_line:
                raise DataError(
                    f"{path} has no record that starts at line {header_line}",
                    cure="correct --header-row",
                )
        if not first:
            raise DataError(f"{path} is empty", cure="export the table again")
        titles = first[place]
        if isinstance(titles, BadRow):
            raise DataError.at(
                path, titles.line, f"the header cannot be read: {titles.reason}",
                cure="correct it, or name the right --encoding",
            )  # fmt: skip
        self.header = titles.cells
        self._header_row = titles
        self._above = first[:place]

    def facts(self) -> dict[str, str]:
        """Encoding, delimiter, quoting and line ends."""
        d = self.dialect
        return {
            "format": "TSV" if d.delimiter == "\t" else "CSV",
            "encoding": str(d.encoding),
            "delimiter": DELIMITER_TITLES.get(d.delimiter, d.delimiter),
            "quoting": str(d.quoting) + (", every cell" if d.quote_all else ""),
            "line ends": {"\r\n": "CRLF", "\n": "LF", "\r": "CR"}[d.line_end],
            "columns": str(len(self.header)),
            **header.facts(self._header_row.line, len(self._above)),
        }

    def rows(self) -> Iterator[TableRow | BadRow]:
        """The records after the header."""
        width = len(self.header)
        for record in islice(self._records(), len(self._above) + 1, None):
            if isinstance(record, BadRow) or len(record.cells) == width:
                yield record
            elif (cells := self._fitted(record.cells)) is not None:
                surplus = len(record.cells) - width
                yield TableRow(record.line, cells, record.raw, surplus)
            else:
                yield BadRow(
                    record.line, f"{len(record.cells)} cells instead of {width}", record.raw
                )

    def _fitted(self, cells: list[str]) -> list[str] | None:
        """Cells of another number as the header has them, where only empty ones are at odds."""
        width = len(self.header)
        if not any(cell.strip() for cell in cells):
            return [""] * width
        if _has_blank_tail(cells, width):
            return cells[:-1]
        if len(cells) == width - 1 and not self.header[-1].strip():
            return [*cells, ""]
        return None

    @contextlib.contextmanager
    def appender(
        self, out: Path, columns: Sequence[Column], *, as_utf8: bool = False
    ) -> Iterator[Writer]:
        """See ``Table``; the header's own bytes are kept as well."""
        target = Encoding("utf-8", b"\xef\xbb\xbf") if as_utf8 else self.dialect.encoding
        with endings.created(out) as stream:
            stream.write(target.bom)
            writer = _Appender(stream, self.dialect, target)
            for record in self._above:
                writer.copy(record.raw)
            writer.write(self._header_row, [column.name for column in columns])
            yield writer

    def _records(self) -> Iterator[TableRow | BadRow]:
        encoding = self.dialect.encoding
        lines = raw_lines(self.path, encoding, carriage_return=self.dialect.line_end == "\r")
        return parse(lines, self.dialect, "utf-8" if encoding.wide else encoding.name)


class _Tape:
    """Lines for ``csv.reader`` that remembers what a record consumed, and can take it back."""

    def __init__(self, lines: Iterator[bytes]) -> None:
        self._lines = lines
        self._returned: list[bytes] = []
        self.used: list[bytes] = []

    def __iter__(self) -> _Tape:
        return self

    def __next__(self) -> str:
        line = self._returned.pop() if self._returned else next(self._lines)
        self.used.append(line)
        return line.decode(LATIN_1)

    def give_back(self, lines: list[bytes]) -> None:
        self._returned += reversed(lines)


def parse(
    lines: Iterator[bytes], dialect: Dialect, encoding: str
) -> Iterator[TableRow | BadRow]:
    """Records of ``lines``; blank lines are none.

    A record whose quoting is wrong costs its first line only: the rest is read again.
    """
    csv.field_size_limit(MAX_CELL)
    tape = _Tape(lines)
    reader = csv.reader(tape, **dialect.options())
    line = 1
    while True:
        tape.used.clear()
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            first, *rest = tape.used
            tape.give_back(rest)
            yield BadRow(line, _reason(error), first)
            line += 1
            continue
        raw = b"".join(tape.used)
        start, line = line, line + len(tape.used)
        if not cells:
            continue
        if raw.isascii():
            yield TableRow(start, cells, raw)
            continue
        try:
            decoded = [cell.encode(LATIN_1).decode(encoding) for cell in cells]
        except UnicodeDecodeError as error:
            byte = error.object[error.start]
            yield BadRow(start, f"byte 0x{byte:02X} is no {encoding} text", raw)
            continue
        yield TableRow(start, decoded, raw)


def _reason(error: csv.Error) -> str:
    text = str(error)
    if "field larger" in text or "unexpected end" in text:
        return "a quotation mark is not closed"
    if "expected after" in text:
        return "a quotation mark stands inside a cell"
    return f"no valid CSV ({text})"


class _Appender(Writer):
    def __init__(self, stream: IO[bytes], dialect: Dialect, target: Encoding) -> None:
        self._stream = stream
        self._dialect = dialect
        self._target = target
        self._same = target.name == dialect.encoding.name and not target.wide
        self._source = "utf-8" if dialect.encoding.wide else dialect.encoding.name

    def write(self, row: TableRow, values: Sequence[Value]) -> None:
        raw: bytes = row.raw
        body = raw.rstrip(b"\r\n")
        end = raw[len(body) :].decode("ascii") or self._dialect.line_end
        mark = self._dialect.delimiter
        cells = "".join(mark + self._dialect.cell(v) for v in values)
        behind = b""
        if row.surplus < 0:
            cells = mark * -row.surplus + cells
        for _ in range(row.surplus):
            # Empty cells stay the last ones, so that new cells stand below their titles.
            place = body.rindex(mark.encode())
            body, behind = body[:place], body[place:] + behind
        try:
            added = cells.encode(self._target.name)
        except UnicodeEncodeError as error:
            raise EncodingGap(error.object[error.start]) from None
        self._stream.write(self._recoded(body) + added)
        self._stream.write(self._recoded(behind) + end.encode(self._target.name))

    def copy(self, raw: bytes) -> None:
        """A record that gets no cells."""
        self._stream.write(self._recoded(raw))

    def _recoded(self, raw: bytes) -> bytes:
        if self._same:
            return raw
        return raw.decode(self._source, "surrogatepass").encode(
            self._target.name, "surrogatepass"
        )


def _has_blank_tail(cells: Sequence[str], width: int) -> bool:
    """Whether an empty cell stands behind the last column, a habit of some programs."""
    return len(cells) == width + 1 and not cells[-1].strip()


def _cells(record: TableRow | BadRow) -> list[str]:
    return record.cells if isinstance(record, TableRow) else []


def _sniff(
    path: Path, encoding: Encoding, delimiter: str | None, quotings: Sequence[Quoting]
) -> Dialect:
    """The dialect under which most records are as wide as the header."""
    with endings.opened(path) as stream:
        head = stream.read(SNIFF_BYTES)
    if encoding.wide:
        head = head.decode(encoding.name, "ignore").encode()
    complete = len(head) < SNIFF_BYTES
    line_end = "\n"
    if b"\n" not in head:
        line_end = "\r" if b"\r" in head else "\n"
    elif head.split(b"\n", 1)[0].endswith(b"\r"):
        line_end = "\r\n"
    first = head.lstrip(encoding.bom if not encoding.wide else b"\xef\xbb\xbf")
    usual = ("\t", *DELIMITERS) if endings.ending(path) in endings.TAB else DELIMITERS
    if delimiter is None and (named := header.SEPARATOR.match(first[:16].decode(LATIN_1))):
        delimiter = named.group(1)
    marks = (delimiter,) if delimiter else usual
    tried = [
        (dialect, _fit(head, dialect, complete))
        for quoting in quotings
        for dialect in (Dialect(encoding, mark, quoting, False, line_end) for mark in marks)
    ]
    # ``max`` takes the first of equals: the usual delimiter, the usual quoting.
    common = [(d, fit) for d, fit in tried if d.quoting.mark == quotings[0].mark]
    best, fit = max(common, key=lambda entry: entry[1].order)
    if not fit.convincing:
        best, _ = max(tried, key=lambda entry: entry[1].order)
    titles = first.splitlines()[0].decode(LATIN_1).split(best.delimiter) if first else []
    mark = best.quoting.mark
    quote_all = bool(mark and titles) and all(
        len(t) > 1 and t.startswith(mark) and t.endswith(mark) for t in titles
    )
    return Dialect(encoding, best.delimiter, best.quoting, quote_all, line_end)


@dataclass(frozen=True)
class _Fit:
    """How a sample reads under a dialect: shares of records as wide as the header.

    ``marked`` is the share among records that hold a quotation mark, None if none does;
    ``above`` counts the records that seem to stand above the header.
    """

    share: float
    marked: float | None
    width: int
    above: int = 0

    @property
    def order(self) -> tuple[float, bool, int]:
        """One column is what every wrong delimiter gives; most headers come first."""
        share = self.share if self.width > 1 else min(self.share, 0.0)
        return (share, not self.above, self.width)

    @property
    def convincing(self) -> bool:
        """Whether quotation marks are what they seem; some rows may be broken."""
        if self.above:
            # Wrong quoting cuts rows into more cells than the header has.
            return False
        return self.share >= 0.5 if self.marked is None else self.marked >= 0.25


def _fit(head: bytes, dialect: Dialect, complete: bool) -> _Fit:
    end = b"\r" if dialect.line_end == "\r" else b"\n"
    lines = [line + end for line in head.split(end)]
    if not complete:
        lines.pop()
    mark = (dialect.quoting.mark or '"').encode()
    if dialect.quoting.escape and dialect.quoting.escape.encode() + mark not in head:
        return _Fit(-1.0, None, 0)
    records = list(islice(parse(iter(lines), dialect, LATIN_1), SNIFF_RECORDS))
    place = header.header_place([_cells(record) for record in records[: header.SEARCHED]])
    if not records or isinstance(records[place], BadRow):
        return _Fit(-1.0, None, 0)
    width = len(_cells(records[place]))
    total, fit, marked, fit_marked = 0, 0, 0, 0
    for record in records[place + 1 :]:
        cells = _cells(record)
        fits = len(cells) == width or _has_blank_tail(cells, width)
        total, fit = total + 1, fit + fits
        if mark in record.raw:
            marked, fit_marked = marked + 1, fit_marked + fits
    share, share_marked = fit / total if total else 1.0, fit_marked / marked if marked else None
    return _Fit(share, share_marked, width, place)
