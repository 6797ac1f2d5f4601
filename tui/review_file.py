"""The review file of a catalog run: rows whose answers a person should look at.

A CSV beside the output (``ecellm_mlx.catalog.writing``). What a person decides goes into
its last column, so that a spreadsheet program serves as well as this screen.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ecellm_mlx.catalog import writing
from ecellm_mlx.errors import DataError
from ecellm_mlx.files import write_atomic
from ecellm_mlx.jobs import RunDirectory


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


def of_run(run: RunDirectory) -> Path:
    """Where the review file of a run is.

    Raises:
        JobError: the run cannot be read.
    """
    return writing.review_path(Path(run.job().config["out"]))


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
