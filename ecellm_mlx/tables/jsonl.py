"""JSON Lines, and JSON arrays: a row is an object, and new keys go before its closing brace.

Numbers keep the text they were written with (``0.10`` stays ``0.10``). An array is read and
written object by object, whatever stands between them.
"""

from __future__ import annotations

import codecs
import contextlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from ecellm_mlx.errors import DataError
from ecellm_mlx.tables import encoding as encodings
from ecellm_mlx.tables import endings
from ecellm_mlx.tables.base import BadRow, Column, Table, TableRow, Value, Writer
from ecellm_mlx.tables.encoding import Encoding
from ecellm_mlx.tables.lines import raw_lines

UTF8 = Encoding("utf-8")
# The header is the union of the keys of this many objects; JSON Lines has none of its own.
HEADER_ROWS = 1000
READ_BYTES = 256 * 1024
# Longest object of an array, in characters: a longer one is a missing brace.
MAX_OBJECT = 16 * 1024 * 1024
SPACE = " \t\r\n"


class JsonLinesTable(Table):
    """A file with one JSON object on each line, in UTF-8.

    Raises:
        DataError: its first lines hold no object.
    """

    title = "JSON Lines"

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        detected = encodings.detect(path)
        self._encoding = Encoding("utf-8", detected.bom if not detected.wide else b"")
        keys: dict[str, None] = {}
        for count, item in enumerate(self._objects()):
            if not isinstance(item, BadRow):
                keys.update(dict.fromkeys(item[1]))
            if count >= HEADER_ROWS:
                break
        if not keys:
            raise DataError(
                f"{path} holds no JSON object in its first {HEADER_ROWS} {self.unit}s",
                cure="write one object on each line, or an array of objects",
            )
        self.header = list(keys)

    @property
    def names(self) -> list[str]:
        """Keys are different already."""
        return self.header

    def writes_as(self, out: Path) -> bool:
        """See ``Table``; lines may be called ``.json``, too."""
        kind = endings.family(out)
        return kind == endings.JSON_LINES[0] or kind == endings.family(self.path)

    def facts(self) -> dict[str, str]:
        """Format, encoding and number of keys."""
        return {
            "format": self.title,
            "encoding": "UTF-8" + (" with byte order mark" if self._encoding.bom else ""),
            "columns": f"{len(self.header)} (keys of the first {HEADER_ROWS} objects)",
        }

    def rows(self) -> Iterator[TableRow | BadRow]:
        """The objects, keys that the header lacks left aside (they are copied all the same)."""
        for item in self._objects():
            if isinstance(item, BadRow):
                yield item
            else:
                line, values, raw = item
                yield TableRow(line, [as_text(values.get(key)) for key in self.header], raw)

    @contextlib.contextmanager
    def appender(
        self, out: Path, columns: Sequence[Column], *, as_utf8: bool = False
    ) -> Iterator[Writer]:
        """See ``Table``; a line is copied up to its closing brace."""
        with endings.created(out) as stream:
            stream.write(self._encoding.bom)
            yield _Appender(stream, columns)

    def _objects(self) -> Iterator[BadRow | tuple[int, dict[str, Any], bytes]]:
        for line, raw in enumerate(raw_lines(self.path, self._encoding), 1):
            if not raw.strip():
                continue
            try:
                value = json.loads(raw.decode("utf-8"), parse_float=_Number, parse_int=_Number)
            except UnicodeDecodeError as error:
                byte = raw[error.start]
                yield BadRow(line, f"byte 0x{byte:02X} is no utf-8 text", raw)
            except (ValueError, RecursionError) as error:
                reason = getattr(error, "msg", "brackets nested too deeply")
                yield BadRow(line, f"no valid JSON ({reason})", raw)
            else:
                if isinstance(value, dict):
                    yield line, value, raw
                else:
                    yield BadRow(line, "no JSON object", raw)


class JsonArrayTable(JsonLinesTable):
    """A file with one JSON array of objects, in UTF-8.

    Raises:
        DataError: it is no such array, or damaged; what is read before the damage is good.
    """

    unit = "object"
    title = "JSON array"

    def writes_as(self, out: Path) -> bool:
        """See ``Table``."""
        return endings.family(out) == ".json"

    @contextlib.contextmanager
    def appender(
        self, out: Path, columns: Sequence[Column], *, as_utf8: bool = False
    ) -> Iterator[Writer]:
        """See ``Table``; what stands before, between and behind the objects is copied."""
        with endings.created(out) as stream:
            stream.write(self._encoding.bom)
            writer = _ArrayAppender(stream, columns)
            yield writer
            writer.finish()

    def _objects(self) -> Iterator[BadRow | tuple[int, dict[str, Any], bytes]]:
        line = 1
        for value, text in self._elements():
            start = line + text[: len(text) - len(text.lstrip(SPACE))].count("\n")
            line += text.count("\n")
            if isinstance(value, dict):
                yield start, value, text.encode()
            else:
                yield BadRow(start, "no JSON object", text.encode())

    def _elements(self) -> Iterator[tuple[Any, str]]:
        """The elements, each with its text and the space around it."""
        decoder = json.JSONDecoder(parse_float=_Number, parse_int=_Number)
        with endings.opened(self.path) as stream:
            stream.seek(len(self._encoding.bom))
            source = _Text(self.path, stream)
            source.expect("[")
            number = 0
            while True:
                lead = source.space()
                if number == 0 and source.next == "]":
                    return
                number += 1
                value, body = source.value(decoder, number)
                yield value, lead + body + source.space()
                if source.next == "]":
                    return
                source.expect(",")


class _Text:
    """What is still to be read of a JSON text, of which some blocks at most are held."""

    def __init__(self, path: Path, stream: IO[bytes]) -> None:
        self._path, self._stream = path, stream
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._text, self._at = "", 0
        self._ended = False

    @property
    def next(self) -> str:
        """The next character; empty at the end."""
        while self._at == len(self._text) and self._more():
            pass
        return self._text[self._at : self._at + 1]

    def space(self) -> str:
        """Take the space that comes next."""
        taken = ""
        while (character := self.next) and character in SPACE:
            taken += character
            self._at += 1
        return taken

    def expect(self, character: str) -> None:
        """Take ``character``, which must come next after space.

        Raises:
            DataError: something else comes.
        """
        self.space()
        if self.next != character:
            raise self._damaged(f"expected {character!r}, got {self.next!r}")
        self._at += 1

    def value(self, decoder: json.JSONDecoder, number: int) -> tuple[Any, str]:
        """Take the next value; returns it and its text.

        Raises:
            DataError: none comes.
        """
        while True:
            try:
                value, end = decoder.raw_decode(self._text, self._at)
            except (ValueError, RecursionError) as error:
                if len(self._text) - self._at < MAX_OBJECT and self._more():
                    continue
                reason = getattr(error, "msg", "brackets nested too deeply")
                raise self._damaged(f"object {number} is no valid JSON ({reason})") from None
            # A number at the end of what was read may go on.
            if end == len(self._text) and self._more():
                continue
            body, self._at = self._text[self._at : end], end
            return value, body

    def _more(self) -> bool:
        """Read on, as much as is held and a block at least; False at the end."""
        if self._ended:
            return False
        rest = self._text[self._at :]
        block = self._stream.read(max(READ_BYTES, len(rest)))
        self._ended = not block
        try:
            self._text = rest + self._decoder.decode(block, final=self._ended)
        except UnicodeDecodeError as error:
            byte = error.object[error.start]
            raise self._damaged(f"byte 0x{byte:02X} is no utf-8 text") from None
        self._at = 0
        return not self._ended

    def _damaged(self, what: str) -> DataError:
        return DataError(
            f"{self._path} is no JSON array that can be read to its end",
            got=what,
            cure="export it again, or as JSON Lines or CSV",
        )


class _Number(str):
    """A number as it was written."""

    __slots__ = ()


def as_text(value: Any) -> str:
    """A JSON value as a cell."""
    if value is None:
        return ""
    if isinstance(value, str):
        return str(value)
    if isinstance(value, bool):
        return "true" if value else "false"
    return json.dumps(value, ensure_ascii=False)


class _Appender(Writer):
    def __init__(self, stream: IO[bytes], columns: Sequence[Column]) -> None:
        self._stream = stream
        self._columns = columns

    def write(self, row: TableRow, values: Sequence[Value]) -> None:
        extended = self._extended(row.raw, values)
        self._stream.write(extended if extended.endswith(b"\n") else extended + b"\n")

    def _extended(self, raw: bytes, values: Sequence[Value]) -> bytes:
        """An object's text with the new keys before its closing brace."""
        end = raw.rindex(b"}")
        added = ", ".join(
            f"{json.dumps(column.name)}: {json.dumps(_plain(value), ensure_ascii=False)}"
            for column, value in zip(self._columns, values, strict=True)
        )
        body = raw[:end].rstrip()
        # An empty object takes no comma.
        comma = "" if body.endswith(b"{") else ", "
        return body + (comma + added).encode() + raw[len(body) :]


class _ArrayAppender(_Appender):
    _before = b"["

    def write(self, row: TableRow, values: Sequence[Value]) -> None:
        self._stream.write(self._before + self._extended(row.raw, values))
        self._before = b","

    def finish(self) -> None:
        """Close the array."""
        self._stream.write((b"[" if self._before == b"[" else b"") + b"]\n")


def is_array(path: Path) -> bool:
    """Whether the first thing in a JSON file is the beginning of an array."""
    with endings.opened(path) as stream:
        return stream.read(READ_BYTES).removeprefix(codecs.BOM_UTF8).lstrip()[:1] == b"["


def _plain(value: Value) -> Value:
    if value == "":
        return None
    return round(value, 4) if isinstance(value, float) else value
