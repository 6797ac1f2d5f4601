"""Product feeds as Google Merchant Center takes them: RSS 2.0 and Atom, in XML.

A row is an ``<item>`` or an ``<entry>``, a column the name of an element in it, without its
prefix (``g:brand`` is ``brand``). New elements go before the closing tag of an item; every
other byte of the feed is copied. Source: Google's product data specification, which names
both forms and the namespace below.
"""

from __future__ import annotations

import codecs
import contextlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any
from xml.parsers import expat
from xml.sax.saxutils import escape

from ecellm_mlx.errors import DataError
from ecellm_mlx.tables import endings
from ecellm_mlx.tables.base import BadRow, Column, Table, TableRow, Value, Writer
from ecellm_mlx.tables.sheet_xml import FORBIDDEN

READ_BYTES = 64 * 1024
# The header is the union of the elements of this many items; a feed has none of its own.
HEADER_ROWS = 1000
ITEMS = ("item", "entry")
GOOGLE = "http://base.google.com/ns/1.0"
# What an element's name may hold, so far as product data needs it.
NO_NAME = re.compile(r"[^\w.-]+")


@dataclass(frozen=True, slots=True)
class Item:
    """One product: bytes ``start`` to ``end`` of the feed, the latter before its closing tag.

    Attributes:
        line: where it starts, from 1.
        values: texts by column, of repeated elements all.
    """

    line: int
    start: int
    end: int
    values: dict[str, list[str]]


class FeedTable(Table):
    """A feed in RSS or Atom.

    Raises:
        DataError: it is no XML, or holds no item.
    """

    unit = "item"

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        names: dict[str, None] = {}
        reader = _Reader(path)
        for count, item in enumerate(reader.items()):
            names.update(dict.fromkeys(item.values))
            if count >= HEADER_ROWS:
                break
        if not names:
            raise DataError(
                f"{path} holds no product",
                expected="<item> elements as in RSS, or <entry> elements as in Atom",
                cure="export it as a Google Merchant feed, or as CSV",
            )
        self.header = list(names)
        self._form, self._encoding = reader.form, reader.encoding
        self._prefix = f"{reader.prefix}:" if reader.prefix else ""

    def facts(self) -> dict[str, str]:
        """Form, encoding and number of elements."""
        return {
            "format": f"Merchant feed ({self._form})",
            "encoding": self._encoding,
            "columns": f"{len(self.header)} (elements of the first {HEADER_ROWS} items)",
        }

    def rows(self) -> Iterator[TableRow | BadRow]:
        """The items; ``raw`` is where one ends, for the writer."""
        for item in _Reader(self.path).items():
            yield TableRow(
                item.line, [", ".join(item.values.get(name, ())) for name in self.header], item
            )

    @contextlib.contextmanager
    def appender(
        self, out: Path, columns: Sequence[Column], *, as_utf8: bool = False
    ) -> Iterator[Writer]:
        """See ``Table``; characters that the encoding lacks are written as references."""
        with self.path.open("rb") as source, endings.created(out) as stream:
            names = [self._prefix + NO_NAME.sub("_", column.name) for column in columns]
            encoding = self._encoding
            if encoding == "utf-16":
                # Without a mark of its own in every new element.
                encoding += "-be" if source.read(2) == codecs.BOM_UTF16_BE else "-le"
                source.seek(0)
            writer = _Appender(source, stream, names, encoding)
            yield writer
            writer.finish()


@dataclass
class _Reader:
    """Cuts a feed into items.

    Attributes:
        form: RSS or Atom, once an item was seen.
        encoding: as the feed declares it.
        prefix: what the feed calls Google's namespace; empty if it does not declare it.
    """

    path: Path
    form: str = ""
    encoding: str = "utf-8"
    prefix: str = ""
    _items: list[Item] = field(default_factory=list)
    _stack: list[str] = field(default_factory=list)
    _values: dict[str, list[str]] | None = None
    _texts: list[str] = field(default_factory=list)
    _start: tuple[int, int] = (0, 0)
    _depth: int = 0

    def items(self) -> Iterator[Item]:
        """All items in order.

        Raises:
            DataError: the XML is damaged, or declares entities of its own.
        """
        parser = expat.ParserCreate()
        parser.buffer_text = True
        parser.XmlDeclHandler = self._declared
        parser.StartElementHandler = self._opened(parser)
        parser.EndElementHandler = self._closed(parser)
        parser.CharacterDataHandler = self._texts.append
        parser.EntityDeclHandler = self._entity
        with self.path.open("rb") as stream:
            while True:
                block = stream.read(READ_BYTES)
                try:
                    parser.Parse(block, not block)
                except (expat.ExpatError, LookupError) as error:
                    raise DataError(
                        f"{self.path} is damaged", got=str(error), cure="export it again"
                    ) from None
                yield from self._items
                self._items.clear()
                if not block:
                    return

    def _declared(self, _version: str, encoding: str | None, _standalone: int) -> None:
        self.encoding = (encoding or "utf-8").lower()

    def _entity(self, name: str, *_rest: Any) -> None:
        raise DataError(
            f"{self.path} declares an entity {name!r}, which a product feed has no use for",
            cure="export it again without a document type",
        )

    def _opened(self, parser: Any) -> Any:
        def opened(tag: str, attributes: dict[str, str]) -> None:
            for name, value in attributes.items():
                if value == GOOGLE and name.startswith("xmlns:"):
                    self.prefix = name.removeprefix("xmlns:")
            self._stack.append(tag)
            if self._values is None and tag in ITEMS:
                self.form = "RSS" if tag == ITEMS[0] else "Atom"
                self._values = {}
                self._start = (parser.CurrentLineNumber, parser.CurrentByteIndex)
                self._depth = len(self._stack)
            elif self._values is not None and len(self._stack) == self._depth + 1:
                self._texts.clear()
                if attributes.get("href"):
                    # Atom's links have no text.
                    self._texts.append(attributes["href"])

        return opened

    def _closed(self, parser: Any) -> Any:
        def closed(tag: str) -> None:
            level = len(self._stack) - self._depth if self._values is not None else -1
            if self._values is not None and level == 1:
                values = self._values.setdefault(tag.rpartition(":")[2], [])
                if text := "".join(self._texts).strip():
                    values.append(text)
            elif self._values is not None and level == 0:
                if self._values:
                    line, start = self._start
                    item = Item(line, start, parser.CurrentByteIndex, self._values)
                    self._items.append(item)
                self._values = None
            elif level > 1:
                # Parts of one value, such as country and price of shipping.
                self._texts.append(" ")
            self._stack.pop()

        return closed


class _Appender(Writer):
    def __init__(
        self, source: IO[bytes], stream: IO[bytes], names: Sequence[str], encoding: str
    ) -> None:
        self._source, self._stream = source, stream
        self._names, self._encoding = names, encoding

    def write(self, row: TableRow, values: Sequence[Value]) -> None:
        item: Item = row.raw
        self._copy(item.end)
        for name, value in zip(self._names, values, strict=True):
            if value is None or value == "":
                continue
            text = value if isinstance(value, str) else f"{value:.4f}"
            element = f"<{name}>{escape(FORBIDDEN.sub(chr(0xFFFD), text))}</{name}>"
            self._stream.write(element.encode(self._encoding, "xmlcharrefreplace"))

    def finish(self) -> None:
        """Copy the rest."""
        self._copy(None)

    def _copy(self, end: int | None) -> None:
        """Copy up to byte ``end`` of the feed, or all of it."""
        while end is None or self._source.tell() < end:
            left = READ_BYTES if end is None else min(READ_BYTES, end - self._source.tell())
            block = self._source.read(left)
            if not block:
                return
            self._stream.write(block)
