"""The review file of a catalog run: rows whose answers a person should look at.

A CSV beside the output (``catalog.writing``). What a person decides goes into its last
column, with a spreadsheet program or a face. ``apply`` takes the decisions over: into the
journal, where no later run replaces them; into the table; and into training rows.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from ecellm_mlx.catalog import writing
from ecellm_mlx.catalog.journal import PERSON, CatalogJournal, Entry
from ecellm_mlx.catalog.settings import CatalogJob, JobSettings
from ecellm_mlx.data.question import Question
from ecellm_mlx.data.rows import Row
from ecellm_mlx.data.schema import row_from
from ecellm_mlx.distributed.shards import journal_path
from ecellm_mlx.errors import DataError, JobError
from ecellm_mlx.files import ensure_folder, write_atomic
from ecellm_mlx.jobs import RunDirectory
from ecellm_mlx.settings import from_json
from ecellm_mlx.tables import Table

SETTING, SPLIT = "reviewed", "train"


@dataclass(frozen=True)
class ReviewItem:
    """One row. ``confidence`` is 0-1; an empty ``correction`` is undecided."""

    key: str
    line: str
    fields: dict[str, str]
    answer: str
    confidence: float
    correction: str

    @property
    def accepted(self) -> bool:
        """Whether a person said that the answer is right."""
        return bool(self.correction) and self.correction == self.answer


@dataclass(frozen=True)
class ReviewFile:
    """The file's columns and rows, the least sure first."""

    path: Path
    titles: tuple[str, ...]
    items: tuple[ReviewItem, ...]


@dataclass(frozen=True)
class Applied:
    """What ``apply`` did: rows that were decided, and those of them that were changed."""

    decided: int
    corrected: int
    out: Path
    rows: Path | None


def of_run(run: RunDirectory) -> Path:
    """Where the review file of a run is.

    Raises:
        JobError: the run cannot be read, or is no catalog run.
    """
    job = run.job()
    if job.kind != "catalog":
        raise JobError(f"{run.path} is no catalog run", got=job.kind)
    return writing.review_path(from_json(JobSettings, job.config).out)


def read(path: Path) -> ReviewFile:
    """Read a review file.

    Raises:
        DataError: it is missing or is none.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise DataError(
            f"{path} does not exist: no answer was below the limit",
            cure="run the catalog with a higher --review-below",
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read", got=str(error)) from None
    rows = list(csv.reader(io.StringIO(text, newline="")))
    titles = rows[0] if rows else []
    if writing.KEY not in titles or writing.CORRECTION not in titles or len(titles) < 6:
        raise DataError(
            f"{path} is no review file", expected=f"columns {writing.KEY}, {writing.CORRECTION}"
        )
    # line, key, fields …, answer, confidence, error, correction
    items = [_item(titles, cells) for cells in rows[1:] if len(cells) == len(titles)]
    return ReviewFile(path, tuple(titles), tuple(sorted(items, key=lambda i: i.confidence)))


def save(file: ReviewFile, corrections: Mapping[str, str]) -> None:
    """Write decisions by key into the file; its other cells and their order stay.

    Raises:
        DataError: the file is gone or is none any more.
        StorageError: it cannot be written.
    """
    text = file.path.read_text(encoding="utf-8-sig")
    rows = list(csv.reader(io.StringIO(text, newline="")))
    key = rows[0].index(writing.KEY)
    for cells in rows[1:]:
        if len(cells) == len(rows[0]) and cells[key] in corrections:
            cells[-1] = corrections[cells[key]]
    out = io.StringIO(newline="")
    csv.writer(out, lineterminator="\r\n" if "\r\n" in text else "\n").writerows(rows)
    write_atomic(file.path, out.getvalue())


def apply(run: RunDirectory, rows_file: Path | None = None) -> Applied:
    """Take over every decision of a run's review file.

    Args:
        run: a finished catalog run; its table must be there, unchanged.
        rows_file: where to write the decided rows as training rows (JSON Lines).

    Raises:
        JobError: the run has not finished, or its journal is in use.
        DataError: nothing was decided, or a decision is no answer to the question.
        StorageError: a file cannot be written.
    """
    job = run.job()
    decided = {item.key: item for item in read(of_run(run)).items if item.correction}
    if not decided:
        raise DataError(
            f"{of_run(run)} holds no decisions",
            cure=f"write the right answers into its column {writing.CORRECTION!r}",
        )
    asked = CatalogJob.from_json(job.config)
    table, out = asked.reading.open(asked.table), asked.settings.out
    rows = training_rows(table, asked.question, decided)
    changed = [item for item in decided.values() if not item.accepted]
    path = journal_path(out)
    if not path.exists():
        raise JobError(f"{path} is gone", cure="run the catalog again")
    with CatalogJournal(path, asked.identity(job.fingerprints["base"])) as journal:
        journal.add(
            Entry(bytes.fromhex(item.key), item.correction, 1.0, origin=PERSON)
            for item in decided.values()
        )
        # The review file stays as it is: it is the person's record.
        normalise = asked.settings.normalise
        writing.write(
            table, asked.question, journal, out, normalise=normalise, keep_review=True
        )
    if rows_file:
        ensure_folder(rows_file.parent)
        lines = [json.dumps(asdict(row), ensure_ascii=False) + "\n" for row in rows]
        write_atomic(rows_file, "".join(lines))
    return Applied(len(decided), len(changed), out, rows_file)


def training_rows(
    table: Table, question: Question, decided: Mapping[str, ReviewItem]
) -> Sequence[Row]:
    """The decided rows as rows to train on, in the table's order, each input once.

    Raises:
        DataError: a decision is no answer to the question; names the line.
    """
    product_of = question.reader(table.names)
    by_key: dict[str, Row] = {}
    for row in table.good_rows():
        product = product_of(row.cells)
        item = decided.get(product.key.hex())
        if product.row is None or item is None or item.key in by_key:
            continue
        whole = replace(product.row, output=item.correction, setting=SETTING, split=SPLIT)
        try:
            by_key[item.key] = row_from(asdict(whole), item.key, SPLIT)
        except DataError as error:
            raise DataError(
                f"the decision for line {item.line} cannot be used: {error.what}",
                got=error.got,
                expected=error.expected,
                cure=error.cure or f"correct it in column {writing.CORRECTION!r}",
            ) from None
    return list(by_key.values())


def _item(titles: list[str], cells: list[str]) -> ReviewItem:
    answer, confidence, _error, correction = cells[-4:]
    try:
        sure = float(confidence)
    except ValueError:
        sure = 0.0
    return ReviewItem(
        key=cells[titles.index(writing.KEY)],
        line=cells[0],
        fields=dict(zip(titles[2:-4], cells[2:-4], strict=True)),
        answer=answer,
        confidence=sure,
        correction=correction,
    )
