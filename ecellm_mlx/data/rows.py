"""Files of rows in the ECInstruct format: load, check, find, choose.

A file is JSON Lines, or one JSON list (``.json``), in UTF-8. Reading validates every
row and names the line of what is wrong. What a row is, is said in ``schema``.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ecellm_mlx.data.json_items import SUFFIXES, Finding, items, unreadable
from ecellm_mlx.data.schema import Row, row_from
from ecellm_mlx.errors import DataError
from ecellm_mlx.tasks.kind import Kind
from ecellm_mlx.tasks.ranking import check_judgments
from ecellm_mlx.tasks.registry import TASKS, find

__all__ = [
    "DatasetFiles",
    "Finding",
    "Report",
    "Row",
    "attach_judgments",
    "check",
    "dataset",
    "digest",
    "load",
    "stratified",
]

SPLITS = {"train": ("train",), "val": ("val", "validation"), "test": ("test",)}
QUANTILES = (50, 90, 99, 100)


@dataclass(frozen=True)
class Report:
    """All there is to say about a file of rows.

    ``counts`` is rows by task, setting and split. ``characters`` holds the 50th, 90th,
    99th and 100th percentile of instruction, input, options and output together.
    """

    path: Path
    rows: int
    errors: list[Finding]
    warnings: list[Finding]
    counts: dict[str, dict[str, dict[str, int]]]
    duplicate_inputs: int
    characters: dict[str, int]

    @property
    def ok(self) -> bool:
        """Whether ``load`` would accept the file."""
        return not self.errors and self.rows > 0

    def to_json(self) -> dict[str, Any]:
        """The report as JSON values."""
        return {**asdict(self), "path": str(self.path), "ok": self.ok}


@dataclass(frozen=True)
class DatasetFiles:
    """The files of a dataset folder."""

    train: Path
    val: Path | None
    test: Path | None


def load(
    path: Path, *, tasks: Iterable[str] | None = None, settings: Iterable[str] | None = None
) -> list[Row]:
    """Read and validate a file, then keep the rows of ``tasks`` and ``settings``.

    Args:
        path: a ``.jsonl`` or ``.json`` file.
        tasks: task names in any spelling that ``find`` accepts; None keeps all.
        settings: names of settings; None keeps all.

    Raises:
        DataError: the file cannot be read, a row is wrong, or no row is left.
    """
    path = Path(path)
    wanted_tasks = None if tasks is None else {find(name).name for name in tasks}
    wanted_settings = None if settings is None else set(settings)
    numbered, errors = _scan(path)
    if errors:
        raise errors[0].error(path, len(errors) - 1)
    rows = [row for _, row in numbered]
    if not rows:
        raise DataError(f"{path}: has no rows", cure="check that this is the right file")
    kept = [
        row
        for row in rows
        if (wanted_tasks is None or row.task in wanted_tasks)
        and (wanted_settings is None or row.setting in wanted_settings)
    ]
    if not kept:
        raise DataError(
            f"{path}: no row is of the tasks and settings asked for",
            got=", ".join(sorted({f"{row.task} {row.setting}" for row in rows})),
            expected=" and ".join(
                ", ".join(sorted(names)) for names in (wanted_tasks, wanted_settings) if names
            ),
        )
    return kept


def check(path: Path) -> Report:
    """Read a file to its end and report everything about it.

    Raises:
        DataError: the file is missing or of another kind.
    """
    path = Path(path)
    numbered, errors = _scan(path)
    if not numbered and not errors:
        errors = [Finding(0, "has no rows", cure="check that this is the right file")]
    counts: dict[str, dict[str, dict[str, int]]] = {}
    for _, row in numbered:
        splits = counts.setdefault(row.task, {}).setdefault(row.setting, {})
        splits[row.split] = splits.get(row.split, 0) + 1
    repeated, duplicates = _repeated_inputs(numbered)
    sizes = sorted(
        sum(map(len, (row.instruction, row.input, row.options or "", row.output)))
        for _, row in numbered
    )
    return Report(
        path=path,
        rows=len(numbered),
        errors=errors,
        warnings=sorted(
            [*repeated, *_doubts(numbered)],
            key=lambda finding: finding.line,
        ),
        counts=counts,
        duplicate_inputs=duplicates,
        characters={f"p{q}": sizes[-(-len(sizes) * q // 100) - 1] for q in QUANTILES if sizes},
    )


def dataset(folder: Path) -> DatasetFiles:
    """The files of a dataset folder: ``train``, and ``val`` and ``test`` if they are there.

    Raises:
        DataError: the folder or its training rows are missing, or two files claim a split.
    """
    folder = Path(folder)
    layout = "train.jsonl and val.jsonl (or .json)"
    if folder.is_file():
        raise DataError(
            f"{folder}: is a file",
            expected=f"a folder with {layout}",
            cure="give the folder that holds it",
        )
    if not folder.is_dir():
        raise DataError(
            f"{folder}: there is no such folder", expected=f"a folder with {layout}"
        )
    by_split: dict[str, Path | None] = {}
    for split, stems in SPLITS.items():
        names = [stem + suffix for stem in stems for suffix in SUFFIXES]
        files = [folder / name for name in names if (folder / name).is_file()]
        if len(files) > 1:
            raise DataError(
                f"{folder}: more than one file for {split}",
                got=", ".join(file.name for file in files),
                cure="keep one of them",
            )
        by_split[split] = files[0] if files else None
    train = by_split["train"]
    if train is None:
        present = sorted(item.name for item in folder.iterdir())[:5]
        raise DataError(
            f"{folder}: there are no training rows",
            got=", ".join(present) or "an empty folder",
            expected=layout,
            cure="rename the file, or make one with `ecellm data import`",
        )
    return DatasetFiles(train, by_split["val"], by_split["test"])


def digest(paths: Iterable[Path]) -> str:
    """SHA-256 over the contents of files in their order; where they lie does not matter."""
    outer = hashlib.sha256()
    for path in paths:
        try:
            with Path(path).open("rb") as stream:
                outer.update(hashlib.file_digest(stream, "sha256").digest())
        except OSError as error:
            raise unreadable(Path(path), error) from error
    return outer.hexdigest()


def stratified(rows: Sequence[Row], limit: int, seed: int) -> list[Row]:
    """At most ``limit`` rows in their order, alike in make-up to all of them.

    Every (task, setting) is kept as long as ``limit`` allows it (the largest first),
    and closed tasks keep their mix of answers. The choice follows from ``seed``.
    """
    if limit >= len(rows):
        return list(rows)
    groups: dict[tuple[str, str], dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    for index, row in enumerate(rows):
        answer = row.output if TASKS[row.task].closed else ""
        groups[row.task, row.setting][answer].append(index)
    rng = random.Random(seed)
    chosen: list[int] = []
    strata = [groups[key] for key in sorted(groups)]
    sizes = [sum(map(len, answers.values())) for answers in strata]
    for answers, quota in zip(strata, _apportion(sizes, limit, everyone=True), strict=True):
        members = [answers[answer] for answer in sorted(answers)]
        shares = _apportion([len(m) for m in members], quota, everyone=False)
        for indices, share in zip(members, shares, strict=True):
            chosen += rng.sample(indices, share)
    return [rows[index] for index in sorted(chosen)]


def attach_judgments(rows: Sequence[Row], path: Path) -> list[Row]:
    """Rows with ``labels`` from the published ``label.json``, a JSON list of lists.

    The n-th list belongs to the n-th ranking row of each setting. Other rows pass through.

    Raises:
        DataError: the file is no such list, or the counts differ.
    """
    path = Path(path)
    try:
        lists = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise unreadable(path, error) from error
    except ValueError as error:
        raise DataError(f"{path}: is not JSON", got=str(error)) from None
    if not isinstance(lists, list):
        raise DataError(f"{path}: is not a JSON list", expected="a list of lists of E, S, C, I")
    seen: Counter[str] = Counter()
    result: list[Row] = []
    for row in rows:
        if TASKS[row.task].kind.judged:
            position = seen[row.setting]
            seen[row.setting] += 1
            labels = lists[position] if position < len(lists) else None
            try:
                check_judgments(labels, row.output)
            except DataError as error:
                raise DataError(
                    f"{path}: entry {position + 1} does not fit row {row.id!r}: {error.what}",
                    got=error.got,
                    expected=error.expected,
                    cure="use the label file of exactly these rows, in the same order",
                ) from None
            row = replace(row, labels=labels)
        result.append(row)
    if wrong := {setting: n for setting, n in seen.items() if n != len(lists)}:
        setting, n = next(iter(wrong.items()))
        raise DataError(
            f"{path}: holds {len(lists)} entries for {n} ranking rows of {setting}",
            cure="use the label file of exactly these rows",
        )
    return result


def _scan(path: Path) -> tuple[list[tuple[int, Row]], list[Finding]]:
    """All good rows with their lines, and one finding for each bad line."""
    rows: list[tuple[int, Row]] = []
    errors: list[Finding] = []
    first_line: dict[str, int] = {}
    split = next((name for name, stems in SPLITS.items() if path.stem in stems), "")
    for number, (line, item) in enumerate(items(path), start=1):
        if isinstance(item, Finding):
            errors.append(item)
            continue
        try:
            row = row_from(item, f"{path.stem}:{number}", split)
            if row.id in first_line:
                raise DataError(
                    f"id {row.id!r} is also on line {first_line[row.id]}",
                    cure="give every row an id of its own",
                )
        except DataError as error:
            errors.append(Finding.of(line, error))
            continue
        first_line[row.id] = line
        rows.append((line, row))
    return rows, errors


def _repeated_inputs(numbered: Sequence[tuple[int, Row]]) -> tuple[list[Finding], int]:
    """Warnings for rows whose question came before, and how many such rows there are."""
    first: dict[tuple[str, str, str, str | None], tuple[int, str]] = {}
    findings: list[Finding] = []
    for line, row in numbered:
        key = (row.task, row.setting, row.input, row.options)
        if key not in first:
            first[key] = (line, row.output)
            continue
        earlier, output = first[key]
        contrast = "" if output == row.output else ", with another output"
        findings.append(Finding(line, f"the same question is on line {earlier}{contrast}"))
    return findings, len(findings)


def _doubts(numbered: Sequence[tuple[int, Row]]) -> list[Finding]:
    """What the kinds of answers find odd."""
    by_kind: dict[Kind, list[tuple[int, Row]]] = defaultdict(list)
    for line, row in numbered:
        by_kind[TASKS[row.task].kind].append((line, row))
    return [
        Finding.of(members[place][0], doubt)
        for kind, members in by_kind.items()
        for place, doubt in kind.doubts([row for _, row in members])
    ]


def _apportion(sizes: Sequence[int], seats: int, *, everyone: bool) -> list[int]:
    """Divide ``seats`` in proportion to ``sizes`` (highest averages), no more than each has.

    With ``everyone`` (Adams) each gets a seat before any gets two; else (Webster)
    rounding is to the nearest.
    """
    given = [0] * len(sizes)
    offset = 0.0 if everyone else 0.5
    for _ in range(min(seats, sum(sizes))):
        open_seats = [i for i, size in enumerate(sizes) if given[i] < size]
        best = max(
            open_seats,
            key=lambda i: (given[i] + offset == 0, sizes[i] / (given[i] + offset or 1), -i),
        )
        given[best] += 1
    return given
