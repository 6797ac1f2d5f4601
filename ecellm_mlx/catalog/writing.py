"""The second pass over a table: write it with the answers of the journal.

Three files, each there whole or not at all: the table, rows that could not be read
(``.rejects.csv``), and rows whose answers a person should look at (``.review.csv``).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from ecellm_mlx import tables
from ecellm_mlx.catalog.canonical import canonical
from ecellm_mlx.catalog.journal import BINS, CatalogJournal, Entry
from ecellm_mlx.data.question import Product, Question
from ecellm_mlx.errors import JobError
from ecellm_mlx.files import remove_torn
from ecellm_mlx.tables import BadRow, Column, Table, TableRow, plain
from ecellm_mlx.tasks.extraction import SEPARATOR

BLOCK_ROWS = 512
KEY, LINE, CORRECTION = "ecellm_key", "ecellm_line", "correction"


@dataclass
class WrittenCatalog:
    """What was written; ``confidence`` counts rows in ten bins."""

    rows: int = 0
    errors: int = 0
    blank: int = 0
    rejected: int = 0
    review: int = 0
    columns: list[str] = field(default_factory=list)
    confidence: list[int] = field(default_factory=lambda: [0] * BINS)
    as_utf8: bool = False


def rejects_path(out: Path) -> Path:
    """Where rows that could not be read go."""
    return out.with_name(f"{out.stem}.rejects.csv")


def review_path(out: Path) -> Path:
    """Where rows to look at go."""
    return out.with_name(f"{out.stem}.review.csv")


def result_columns(question: Question, names: Sequence[str]) -> list[Column]:
    """The columns to append; a number is added to names that the table has already."""
    number, suffix = 1, ""
    while True:
        base = f"ecellm_{question.name}{suffix}"
        columns = [
            Column(base),
            Column(f"{base}_confidence", numeric=True),
            Column(f"{base}_error"),
        ]
        if not any(column.name in names for column in columns):
            return columns
        number += 1
        suffix = f"_{number}"


def part_columns(
    parts: Sequence[str], names: Sequence[str], *, normalise: bool = False
) -> list[Column]:
    """A column for each part of an answer, and one for its canonical value if asked for.

    Args:
        parts: names of the parts.
        names: of the columns that are there already.
        normalise: whether canonical values are asked for.
    """
    if normalise:
        parts = [name for part in parts for name in (part, f"{part} normalised")]
    taken, columns = set(names), []
    for part in parts:
        base = name = "ecellm_" + "_".join(part.split())
        number = 1
        while name in taken:
            number += 1
            name = f"{base}_{number}"
        taken.add(name)
        columns.append(Column(name))
    return columns


def write(
    table: Table,
    question: Question,
    journal: CatalogJournal,
    out: Path,
    *,
    review_below: float | None = None,
    normalise: bool = False,
    keep_review: bool = False,
    tick: Callable[[], None] = lambda: None,
) -> WrittenCatalog:
    """Write all files of a job.

    Args:
        table: read from the start.
        question: what was asked.
        journal: with an answer for each of its rows.
        out: the table to write.
        review_below: confidence under which a row goes to the review file.
        normalise: write a canonical value beside each part of an answer.
        keep_review: leave the review file that is there alone.
        tick: called now and then, to show that the job lives.

    Raises:
        JobError: the table changed since it was answered.
        StorageError: a file cannot be written.
    """
    for path in (out, rejects_path(out), review_path(out)):
        # The journal's lock keeps others away.
        remove_torn(path)
    again = partial(
        _write, table, question, journal, out, review_below, normalise, keep_review, tick
    )
    try:
        return again(as_utf8=False)
    except tables.EncodingGap:
        # An answer may hold a character that the table's own encoding lacks.
        return again(as_utf8=True)


def _write(
    table: Table,
    question: Question,
    journal: CatalogJournal,
    out: Path,
    review_below: float | None,
    normalise: bool,
    keep_review: bool,
    tick: Callable[[], None],
    *,
    as_utf8: bool,
) -> WrittenCatalog:
    columns = result_columns(question, table.names)
    results = [column.name for column in columns]
    parts = question.kind.result_parts(question.constants)
    columns += part_columns(parts, [*table.names, *results], normalise=normalise)
    done = WrittenCatalog(columns=[column.name for column in columns], as_utf8=as_utf8)
    with contextlib.ExitStack() as stack:
        main = stack.enter_context(tables.writer(table, out, columns, as_utf8=as_utf8))
        rejects = _Side(rejects_path(out), ["line", "reason", "row"], stack)
        titles = [LINE, KEY, *question.columns, *results, CORRECTION]
        review = _Side(review_path(out), titles, stack, keep=keep_review)
        for block in _blocks(table, question):
            tick()
            entries = journal.entries([p.key for _, p in block if p and p.row])
            for row, product in block:
                if isinstance(row, BadRow):
                    done.rejected += 1
                    text = row.raw.rstrip(b"\r\n").decode("utf-8", "backslashreplace")
                    rejects.write([str(row.line), row.reason, text])
                    continue
                assert product is not None
                entry = _entry(product, entries)
                values = question.kind.part_values(entry.answer, parts)
                if normalise:
                    values = _with_canonical(parts, values)
                main.write(row, [entry.answer, entry.confidence, entry.error, *values])
                done.rows += 1
                done.errors += bool(entry.error)
                done.blank += row.blank
                if entry.confidence is None:
                    continue
                done.confidence[min(int(entry.confidence * BINS), BINS - 1)] += 1
                if review_below is not None and entry.confidence < review_below:
                    done.review += 1
                    review.write(_for_review(row, product, entry, table, question))
    return done


def _with_canonical(parts: Sequence[str], values: Sequence[str]) -> list[str]:
    """Each value, and its canonical form behind it; of several values those that have one."""
    both = []
    for part, value in zip(parts, values, strict=True):
        each = (canonical(part, one) for one in value.split(SEPARATOR))
        both += [value, SEPARATOR.join(dict.fromkeys(filter(None, each)))]
    return both


def _entry(product: Product, entries: dict[bytes, Entry]) -> Entry:
    if product.row is None:
        return Entry(product.key, "", error=product.error)
    if product.key not in entries:
        raise JobError(
            "the table changed while the job ran", cure="start it again with --resume"
        )
    return entries[product.key]


def _for_review(
    row: TableRow, product: Product, entry: Entry, table: Table, question: Question
) -> list[Any]:
    cells = [row.cells[table.names.index(column)] for column in question.columns.values()]
    key, result = product.key.hex(), [entry.answer, entry.confidence, entry.error]
    return [str(row.line), key, *cells, *result, ""]


class _Side:
    """A file beside the table that is written only if something goes into it."""

    def __init__(
        self,
        path: Path,
        titles: Sequence[str],
        stack: contextlib.ExitStack,
        *,
        keep: bool = False,
    ) -> None:
        self._path, self._titles, self._stack = path, titles, stack
        self._lines: plain.Lines | None = None
        if not keep:
            # One of an earlier run must not be taken for this one's.
            stack.callback(self._remove_old)

    def write(self, values: Sequence[tables.Value]) -> None:
        if self._lines is None:
            columns = [Column(title) for title in self._titles]
            self._lines = self._stack.enter_context(plain.create(self._path, columns))
        self._lines.write(values)

    def _remove_old(self) -> None:
        if self._lines is None:
            self._path.unlink(missing_ok=True)


def _blocks(
    table: Table, question: Question
) -> Iterator[list[tuple[TableRow | BadRow, Product | None]]]:
    product_of = question.reader(table.names)
    rows = (
        (row, product_of(row.cells) if isinstance(row, TableRow) else None)
        for row in table.rows()
    )
    while block := list(islice(rows, BLOCK_ROWS)):
        yield block
