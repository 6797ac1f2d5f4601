"""What every table format offers: a header, a stream of rows, rows that grow to the right.

A table is never held as a whole. A writer does not rewrite a row, it appends to it: what a
format keeps in ``TableRow.raw`` is copied as it is, so that untouched cells cannot change.
Knows no format.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ecellm_mlx.errors import DataError
from ecellm_mlx.tables import endings

Value = str | float | None


@dataclass(frozen=True, slots=True)
class TableRow:
    """One row: ``cells`` as text, one per column; ``line`` is where it starts, from 1.

    Attributes:
        surplus: how many cells the file has in this row behind the last column (below 0:
            how many it lacks); all of them are empty.
    """

    line: int
    cells: list[str]
    raw: Any = None
    surplus: int = 0

    @property
    def blank(self) -> bool:
        """Whether it holds nothing: it is copied, and nothing is asked about it."""
        return not any(cell.strip() for cell in self.cells)


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that cannot be used, with all of its bytes."""

    line: int
    reason: str
    raw: bytes


@dataclass(frozen=True)
class Column:
    """A column to append; ``numeric`` where the format knows numbers."""

    name: str
    numeric: bool = False


class EncodingGap(Exception):  # noqa: N818 - not a failure: the caller writes again as UTF-8
    """An answer holds a character that the table's own encoding lacks."""


class Writer(ABC):
    """Writes the rows of one table, in its order, with cells appended."""

    @abstractmethod
    def write(self, row: TableRow, values: Sequence[Value]) -> None:
        """Copy ``row`` and append ``values``, one for each new column.

        Raises:
            EncodingGap: see there.
        """


class Table(ABC):
    """A table on disk that can be read any number of times."""

    unit = "line"

    def __init__(self, path: Path) -> None:
        self.path = path
        self.header: list[str] = []

    @property
    def names(self) -> list[str]:
        """How columns are addressed: see ``addresses``."""
        return addresses(self.header)

    @abstractmethod
    def facts(self) -> dict[str, str]:
        """What was found out about the file, for a person."""

    @abstractmethod
    def rows(self) -> Iterator[TableRow | BadRow]:
        """All rows in order, from the start."""

    @abstractmethod
    def appender(
        self, out: Path, columns: Sequence[Column], *, as_utf8: bool = False
    ) -> AbstractContextManager[Writer]:
        """A writer of this table in its own format; ``out`` is there whole or not at all.

        Args:
            out: the file to write.
            columns: what is appended to the header.
            as_utf8: give up the table's own encoding for UTF-8.
        """

    def writes_as(self, out: Path) -> bool:
        """Whether ``out`` is to be a file of the table's own format, by its ending."""
        return endings.family(self.path) == endings.family(out)

    def good_rows(self) -> Iterator[TableRow]:
        """The rows that can be used."""
        return (row for row in self.rows() if isinstance(row, TableRow))


def addresses(header: Sequence[str]) -> list[str]:
    """A different name for each column: repeated ones become ``name#2``, empty ones ``#3``."""
    seen: dict[str, int] = {}
    names = []
    for place, title in enumerate(header, 1):
        name = title.strip() or f"#{place}"
        seen[name] = seen.get(name, 0) + 1
        names.append(name if seen[name] == 1 else f"{name}#{seen[name]}")
    return names


def no_rows(path: Path) -> DataError:
    """The error for a table of which nothing is left."""
    return DataError(f"{path} has a header and no rows", cure="add products")
