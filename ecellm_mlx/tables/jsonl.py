"""JSON Lines: one object a line; new keys go before an object's closing brace.

Numbers keep the text they were written with (``0.10`` stays ``0.10``).
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from ecellm_mlx.errors import DataError
from ecellm_mlx.files import open_atomic
from ecellm_mlx.tables import encoding as encodings
from ecellm_mlx.tables.base import BadRow, Column, Table, TableRow, Value, Writer
from ecellm_mlx.tables.encoding import Encoding
from ecellm_mlx.tables.lines import raw_lines

UTF8 = Encoding("utf-8")
# The header is the union of the keys of this many objects; JSON Lines has none of its own.
HEADER_ROWS = 1000


class JsonLinesTable(Table):
    """A file with one JSON object on each line, in UTF-8.

    Raises:
        DataError: its first lines hold no object.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        found = encodings.detect(path)
        self._encoding = Encoding("utf-8", found.bom if not found.wide else b"")
        keys: dict[str, None] = {}
        for count, item in enumerate(self._objects()):
            if not isinstance(item, BadRow):
                keys.update(dict.fromkeys(item[1]))
            if count >= HEADER_ROWS:
                break
        if not keys:
            raise DataError(
                f"{path} holds no JSON object in its first {HEADER_ROWS} lines",
                cure="write one object on each line, or export it as CSV",
            )
        self.header = list(keys)

    @property
    def names(self) -> list[str]:
        """Keys are different already."""
        return self.header

    def facts(self) -> dict[str, str]:
        """Format, encoding and number of keys."""
        return {
            "format": "JSON Lines",
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
        with open_atomic(out) as stream:
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
        raw: bytes = row.raw
        end = raw.rindex(b"}")
        added = ", ".join(
            f"{json.dumps(column.name)}: {json.dumps(_plain(value), ensure_ascii=False)}"
            for column, value in zip(self._columns, values, strict=True)
        )
        # An empty object takes no comma.
        comma = ", " if raw[:end].rstrip()[-1:] != b"{" else ""
        after = raw[end:] if raw.endswith(b"\n") else raw[end:] + b"\n"
        self._stream.write(raw[:end] + (comma + added).encode() + after)


def _plain(value: Value) -> Value:
    if value == "":
        return None
    return round(value, 4) if isinstance(value, float) else value
