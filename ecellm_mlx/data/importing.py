"""Own tables as rows: what was asked, what the answer was, one training row a line.

The question part is that of catalogs (``data.question``): the same ``--map`` options make
the same inputs, so that a model is trained on what it will be asked. Here an answer is
added to each row, and rows are divided into training, validation and test by their input,
so that no input is in two of them.

Beside a task's fields a mapping may name

    output          the column with the answer
    answer.NAME     for extraction: the column with the value of the attribute NAME
    labels          for ranking: E, S, C and I of each product, from which a missing output
                    follows
    id, category    carried along
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from ecellm_mlx.data import question as questions
from ecellm_mlx.data.json_items import Finding
from ecellm_mlx.data.schema import OWN_SETTING, row_from
from ecellm_mlx.errors import DataError, UsageError
from ecellm_mlx.files import ensure_folder, write_atomic
from ecellm_mlx.tables import BadRow, TableRow, open_table
from ecellm_mlx.tables.mapping import split_list
from ecellm_mlx.tasks.fields import ATTRIBUTE, LABELS, OUTPUT
from ecellm_mlx.tasks.kind import AnswerCells
from ecellm_mlx.tasks.registry import TASKS, Task
from ecellm_mlx.tasks.registry import find as find_task

ID, CATEGORY = "id", "category"
EXTRAS = (OUTPUT, LABELS, ID, CATEGORY)


@dataclass(frozen=True)
class Import:
    """What a table is turned into.

    Attributes:
        task: name of the task.
        mapping: ``--map`` options, those of the answer included.
        instruction: instead of the task's own.
        labels: the options of a choice, where the table has no column of them.
        val, test: shares of the rows.
        setting: name of the rows' setting.
        encoding, delimiter, sheet: see ``tables.open_table``.
    """

    task: str
    mapping: Sequence[str]
    instruction: str | None = None
    labels: Sequence[str] = ()
    val: float = 0.1
    test: float = 0.1
    setting: str = OWN_SETTING
    encoding: str | None = None
    delimiter: str | None = None
    sheet: str | None = None


@dataclass
class Imported:
    """Rows written by split, and what was left out with its line."""

    folder: Path
    rows: dict[str, int]
    left_out: list[Finding] = field(default_factory=list)


def run(path: Path, wanted: Import, out: Path, *, skip: bool = False) -> Imported:
    """Turn a table into ``train.jsonl``, ``val.jsonl`` and ``test.jsonl`` in ``out``.

    Args:
        path: a table that the catalog can read.
        wanted: how.
        out: folder to write; it must be new or empty.
        skip: leave out rows that cannot be used instead of refusing the table.

    Raises:
        UsageError: the mapping or the shares are wrong.
        DataError: a row cannot be used and ``skip`` is off; no row is left.
    """
    if min(wanted.val, wanted.test) < 0 or wanted.val + wanted.test >= 1:
        raise UsageError(
            "--val and --test leave nothing to train on",
            got=f"{wanted.val:g} and {wanted.test:g}",
            expected="shares that sum to less than 1",
        )
    task = find_task(wanted.task)
    table = open_table(
        path, encoding=wanted.encoding, delimiter=wanted.delimiter, sheet=wanted.sheet
    )
    make = _maker(task, wanted, table.names)
    parts: dict[str, list[str]] = {"train": [], "val": [], "test": []}
    problems: list[Finding] = []
    seen: dict[str, int] = {}
    for number, row in enumerate(table.rows(), 1):
        if isinstance(row, BadRow):
            problems.append(Finding(row.line, row.reason))
            continue
        try:
            value = make(row)
            value.setdefault("id", f"{path.stem}:{number}")
            _unique(value["id"], row.line, seen)
            split = _split(value["input"], wanted)
            row_from({**value, "split": split}, value["id"], split)
        except DataError as error:
            problems.append(Finding.of(row.line, error))
            continue
        parts[split].append(json.dumps({**value, "split": split}, ensure_ascii=False) + "\n")
    if problems and not skip:
        first = problems[0].error(path)
        more = f" (and {len(problems) - 1} more rows)" if len(problems) > 1 else ""
        raise DataError(
            first.what,
            got=first.got,
            expected=first.expected,
            cure=f"correct it{more}, or leave such rows out with --skip-bad",
        )
    if not parts["train"]:
        raise DataError(
            f"{path}: no row is left to train on", got=f"{len(problems)} that cannot be used"
        )
    ensure_folder(out)
    if any(out.iterdir()):
        raise DataError(f"{out} is not empty", cure="give another folder with --out")
    for name, lines in parts.items():
        if lines:
            write_atomic(out / f"{name}.jsonl", "".join(lines))
    return Imported(out, {name: len(lines) for name, lines in parts.items()}, problems)


def _maker(
    task: Task, wanted: Import, names: Sequence[str]
) -> Callable[[TableRow], dict[str, Any]]:
    """Turns a row of the table into a row of the dataset."""
    extras, attributes, rest = _divide(wanted.mapping, names)
    _check_answer(task, extras, attributes)
    question = questions.build(
        names,
        task=task.name,
        mapping=rest,
        instruction=wanted.instruction,
        labels=wanted.labels,
        attributes=list(attributes),
    )
    product_of = question.reader(names)

    def make(row: TableRow) -> dict[str, Any]:
        product = product_of(row.cells)
        if product.row is None:
            raise DataError(product.error)
        cells = {name: row.cells[place].strip() for name, place in extras.items()}
        values = {name: row.cells[place] for name, place in attributes.items()}
        made = replace(product.row, setting=wanted.setting)
        labels = [label.upper() for label in split_list(cells.get(LABELS, ""))]
        if len(labels) == 1:
            # E,S,I and ESI are written as often as E | S | I.
            labels = list(labels[0].replace(",", "").replace(" ", ""))
        answer = AnswerCells(cells.get(OUTPUT, ""), labels, values)
        output = task.kind.written(answer, made)
        value: dict[str, Any] = {
            key: item
            for key, item in asdict(replace(made, output=output)).items()
            if key not in ("id", "split", "few_shot_example")
        }
        value["labels"] = labels or None
        value |= {name: cells[name] for name in (ID, CATEGORY) if cells.get(name)}
        return value

    return make


def _divide(
    mapping: Sequence[str], names: Sequence[str]
) -> tuple[dict[str, int], dict[str, int], list[str]]:
    """Columns of extras, columns of attributes, and the mapping of the question."""
    extras: dict[str, int] = {}
    attributes: dict[str, int] = {}
    rest = []
    for item in mapping:
        name, separator, column = item.partition("=")
        name = name.strip()
        is_attribute = name.startswith(ATTRIBUTE) and len(name) > len(ATTRIBUTE)
        if not separator or not (is_attribute or name in EXTRAS):
            rest.append(item)
        elif column not in names:
            raise UsageError(
                f"--map {item!r}: the table has no column {column!r}",
                expected=f"one of {', '.join(names)}",
            )
        elif is_attribute:
            attributes[name.removeprefix(ATTRIBUTE)] = names.index(column)
        else:
            extras[name] = names.index(column)
    return extras, attributes, rest


def _check_answer(task: Task, extras: dict[str, int], attributes: dict[str, int]) -> None:
    allowed = task.kind.answer_columns
    if attributes and ATTRIBUTE not in allowed:
        raise UsageError(f"--map {ATTRIBUTE}… is for {_tasks_with(ATTRIBUTE)}")
    if LABELS in extras and LABELS not in allowed:
        raise UsageError(f"--map {LABELS}=… is for {_tasks_with(LABELS)}")
    if OUTPUT in extras and attributes:
        raise UsageError(f"--map output=… and --map {ATTRIBUTE}… both name the answer")
    if OUTPUT not in extras and LABELS not in extras and not attributes:
        raise UsageError(
            "--map names no answer",
            expected=" or ".join(
                f"{name}NAME=COLUMN" if name == ATTRIBUTE else f"{name}=COLUMN"
                for name in allowed
            ),
            cure="name the column that holds what a model should answer",
        )


def _tasks_with(column: str) -> str:
    return " or ".join(t.name for t in TASKS.values() if column in t.kind.answer_columns)


def _unique(identity: str, line: int, seen: dict[str, int]) -> None:
    if identity in seen:
        raise DataError(f"id {identity!r} is also on line {seen[identity]}")
    seen[identity] = line


def _split(text: str, wanted: Import) -> str:
    """Which file an input belongs to: the same wherever it stands in whatever table."""
    digest = hashlib.sha256(text.encode()).digest()
    place = int.from_bytes(digest[:8]) / 2**64
    if place < wanted.test:
        return "test"
    return "val" if place < wanted.test + wanted.val else "train"
