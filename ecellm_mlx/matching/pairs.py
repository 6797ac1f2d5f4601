"""Candidate pairs of two catalogs as a table, and what is decided about them.

A ``PairTable`` is answered like any other table: same journal, same batches, same resume.
Both catalogs are held in memory.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ecellm_mlx.errors import DataError, UsageError
from ecellm_mlx.matching.candidates import Candidate
from ecellm_mlx.tables import BadRow, Column, Table, TableRow, Writer
from ecellm_mlx.tables.guess import guess
from ecellm_mlx.tasks.registry import PRODUCT_PARTS
from ecellm_mlx.tasks.registry import find as find_task

NUMBER = re.compile(r"\d[\d.,]*")
# What is compared to find candidates; descriptions differ too much between shops.
BLOCKING_PARTS = ("title", "manufacturer")
FIELDS = tuple(f"product {n}.{part}" for n in (1, 2) for part in PRODUCT_PARTS)


@dataclass(frozen=True)
class Side:
    """One catalog: its rows, and the column of each part of a product."""

    table: Table
    columns: dict[str, str]
    rows: list[TableRow]
    rejected: int

    def part(self, row: TableRow, part: str) -> str:
        """A part of a product; empty where the catalog has no column for it."""
        column = self.columns.get(part)
        return row.cells[self.table.names.index(column)] if column else ""

    def texts(self) -> list[str]:
        """What blocking compares."""
        return [" ".join(self.part(row, part) for part in BLOCKING_PARTS) for row in self.rows]

    def prices(self) -> list[float | None]:
        """The price of each product, where it has one that is no zero."""
        return [price_of(self.part(row, "price")) for row in self.rows]


def price_of(text: str) -> float | None:
    """The number in a price, such as ``40.42 gbp`` or ``1.299,00 €``; its currency is lost."""
    number = NUMBER.search(text)
    if not number:
        return None
    digits = number[0].rstrip(".,")
    # What is followed by other than three digits, or comes last of two kinds, is decimal.
    point = max(digits.rfind("."), digits.rfind(","))
    other = min(digits.rfind("."), digits.rfind(","))
    if point >= 0 and (other >= 0 or len(digits) - point != 4):
        whole, fraction = digits[:point], digits[point + 1 :]
    else:
        whole, fraction = digits, ""
    value = float(re.sub("[.,]", "", whole) + "." + fraction)
    return value or None


def parts_of(table: Table, mapping: Sequence[str], option: str) -> dict[str, str]:
    """The column of each part of a product, as given or guessed from names and values.

    Raises:
        UsageError: an unknown part or column, or nothing that looks like a title.
    """
    columns: dict[str, str] = {}
    problems = []
    for item in mapping:
        part, _, column = item.partition("=")
        if part not in PRODUCT_PARTS:
            problems.append(f"{part!r} is no part of a product")
        elif column not in table.names:
            problems.append(f"{table.path.name} has no column {column!r}")
        else:
            columns[part] = column
    if not mapping:
        fields = {
            "product title": "title", "product description": "description",
            "product brand": "manufacturer", "product price": "price",
        }  # fmt: skip
        for choice in guess(table, find_task("AVE"), ["target attributes"]).choices:
            if choice.field in fields:
                columns[fields[choice.field]] = choice.column
    if "title" not in columns and not problems:
        problems.append(f"no column of {table.path.name} is mapped to the title")
    if problems:
        raise UsageError(
            f"{option}: {'; '.join(problems)}",
            expected=f"{', '.join(PRODUCT_PARTS)} and columns {', '.join(table.names)}",
        )
    return columns


def read(table: Table, columns: dict[str, str]) -> Side:
    """Read one catalog; rows that cannot be read are counted and left out.

    Raises:
        DataError: none is left.
    """
    rows, rejected = [], 0
    for row in table.rows():
        if isinstance(row, BadRow):
            rejected += 1
        else:
            rows.append(TableRow(row.line, row.cells))
    if not rows:
        raise DataError(f"{table.path} has no row that can be used", cure="correct it")
    return Side(table, columns, rows, rejected)


class PairTable(Table):
    """One row for each candidate, with the parts of both products."""

    unit = "pair"

    def __init__(self, left: Side, right: Side, candidates: Sequence[Candidate]) -> None:
        super().__init__(left.table.path)
        self.header = list(FIELDS)
        self.left, self.right, self.candidates = left, right, candidates

    def facts(self) -> dict[str, str]:
        """How many pairs there are."""
        return {"pairs": str(len(self.candidates))}

    def rows(self) -> Iterator[TableRow | BadRow]:
        """The pairs, those of one left product together."""
        for number, pair in enumerate(self.candidates, 1):
            left, right = self.left.rows[pair.left], self.right.rows[pair.right]
            cells = [self.left.part(left, part) for part in PRODUCT_PARTS]
            cells += [self.right.part(right, part) for part in PRODUCT_PARTS]
            yield TableRow(number, cells)

    def appender(
        self, out: Path, columns: Sequence[Column], *, as_utf8: bool = False
    ) -> AbstractContextManager[Writer]:
        """Pairs are in no file that could be appended to."""
        raise TypeError("pairs are written by ``matching``")


def accepted(
    candidates: Sequence[Candidate],
    probabilities: Sequence[float | None],
    *,
    threshold: float,
    one_to_one: bool,
) -> list[int]:
    """Places of the candidates that are matches.

    Args:
        candidates: the candidates.
        probabilities: of each being a match, 0-1; None where it could not be asked.
        threshold: least probability of a match.
        one_to_one: use each product once at most, so that the sum of log odds against
            ``threshold`` is the greatest possible; else each candidate stands for itself.
    """
    kept = [i for i, p in enumerate(probabilities) if p is not None and p >= threshold]
    if not one_to_one or not kept:
        return kept
    from scipy.optimize import linear_sum_assignment
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    lefts = np.array([candidates[i].left for i in kept])
    rights = np.array([candidates[i].right for i in kept])
    offset = int(lefts.max()) + 1
    size = offset + int(rights.max()) + 1
    graph = coo_array((np.ones(len(kept)), (lefts, offset + rights)), shape=(size, size))
    # Each part of the graph is solved alone: a matrix of all products would not fit.
    _, parts = connected_components(graph, directed=False)
    members: dict[int, list[int]] = {}
    for place, left in zip(kept, lefts.tolist(), strict=True):
        members.setdefault(int(parts[left]), []).append(place)
    chosen: list[int] = []
    for places in members.values():
        rows = sorted({candidates[i].left for i in places})
        columns = sorted({candidates[i].right for i in places})
        gain = np.zeros((len(rows), len(columns)))
        of: dict[tuple[int, int], int] = {}
        for i in places:
            cell = rows.index(candidates[i].left), columns.index(candidates[i].right)
            probability = probabilities[i]
            assert probability is not None
            # A tie is broken by similarity; a gain above 0 makes any match worth having.
            gain[cell] = _log_odds(probability) - _log_odds(threshold) + 1e-6
            gain[cell] += 1e-9 * candidates[i].similarity
            of[cell] = i
        for cell in zip(*linear_sum_assignment(gain, maximize=True), strict=True):
            if (match := of.get((int(cell[0]), int(cell[1])))) is not None:
                chosen.append(match)
    return sorted(chosen)


def _log_odds(probability: float) -> float:
    bounded = min(max(probability, 1e-9), 1 - 1e-9)
    return float(np.log(bounded / (1 - bounded)))
