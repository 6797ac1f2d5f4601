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
from ecellm_mlx.data.rows import Row
from ecellm_mlx.data.schema import JUDGMENTS, OWN_SETTING, RowError, quote, row_from
from ecellm_mlx.errors import DataError, UsageError
from ecellm_mlx.files import ensure_folder, write_atomic
from ecellm_mlx.tables import BadRow, TableRow, open_table
from ecellm_mlx.tables.mapping import split_list
from ecellm_mlx.tasks.fields import TARGETS
from ecellm_mlx.tasks.registry import Answer, Kind, Task
from ecellm_mlx.tasks.registry import find as find_task

OUTPUT, LABELS, ID, CATEGORY = "output", "labels", "id", "category"
ATTRIBUTE = "answer."
EXTRAS = (OUTPUT, LABELS, ID, CATEGORY)
YES = ("yes", "y", "true", "1", "match")
NO = ("no", "n", "false", "0", "no match")
NONE = "None"


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
        except RowError as error:
            problems.append(Finding(row.line, *error.parts))
            continue
        except DataError as error:
            problems.append(Finding(row.line, error.what, error.got, error.expected))
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
    ask = question.asker(names)

    def make(row: TableRow) -> dict[str, Any]:
        product = ask(row.cells)
        if product.row is None:
            raise DataError(product.error)
        cells = {name: row.cells[place].strip() for name, place in extras.items()}
        values = {name: row.cells[place] for name, place in attributes.items()}
        made = replace(product.row, setting=wanted.setting)
        labels = [label.upper() for label in split_list(cells.get(LABELS, ""))]
        if len(labels) == 1:
            # E,S,I and ESI are written as often as E | S | I.
            labels = list(labels[0].replace(",", "").replace(" ", ""))
        output = (
            _extracted(values, made)
            if attributes
            else _answer(task, made, cells.get(OUTPUT, ""), labels)
        )
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
    if attributes and task.kind is not Kind.EXTRACTION:
        raise UsageError(f"--map {ATTRIBUTE}… is for Attribute_Value_Extraction")
    if LABELS in extras and task.kind is not Kind.RANKING:
        raise UsageError("--map labels=… is for Query_Product_Ranking")
    if OUTPUT in extras and attributes:
        raise UsageError(f"--map output=… and --map {ATTRIBUTE}… both name the answer")
    if OUTPUT not in extras and LABELS not in extras and not attributes:
        raise UsageError(
            "--map names no answer",
            expected="output=COLUMN"
            + (f" or {ATTRIBUTE}NAME=COLUMN" if task.kind is Kind.EXTRACTION else ""),
            cure="name the column that holds what a model should answer",
        )


def _answer(task: Task, row: Row, text: str, labels: Sequence[str]) -> str:
    """An answer as rows write it."""
    if task.kind is Kind.YES_NO:
        word = text.lower()
        if word in (*YES, *NO):
            return "yes" if word in YES else "no"
        raise RowError("the answer is no yes or no", got=quote(text), expected="yes or no")
    if task.kind is Kind.CHOICE:
        return _choice(task, row, text)
    if task.kind is Kind.RANKING and not text and labels:
        if unknown := [label for label in labels if label not in JUDGMENTS]:
            raise RowError("a label is unknown", got=quote(unknown[0]), expected="E, S, C or I")
        order = sorted(range(len(labels)), key=lambda n: JUDGMENTS.index(labels[n]))
        return ",".join(chr(ord("A") + n) for n in order)
    if task.kind is Kind.RANKING:
        return ",".join(part.strip().upper() for part in text.split(","))
    if task.kind is Kind.EXTRACTION:
        try:
            json.loads(text)
        except ValueError:
            raise RowError(
                "the answer is no JSON list of attribute, value and source", got=quote(text)
            ) from None
    return text


def _choice(task: Task, row: Row, text: str) -> str:
    """The option that a cell means: its letter, its text, or both."""
    wanted = text.strip().casefold()
    for option in row.option_list:
        letter, _, content = option.partition(": ")
        if wanted in (letter.casefold(), content.casefold(), option.casefold()):
            return letter if task.answer is Answer.LETTER else option
    raise RowError(
        "the answer is none of the options",
        got=quote(text),
        expected="one of " + ", ".join(quote(option) for option in row.option_list),
    )


def _extracted(values: dict[str, str], row: Row) -> str:
    """The list of attributes, each with the field of the input that holds its value."""
    fields: dict[str, Any] = json.loads(row.input)
    found = []
    for name, cell in values.items():
        value = " ".join(cell.split())
        source = next(
            (
                key
                for key, text in fields.items()
                if key != TARGETS and value and value in str(text)
            ),
            None,
        )
        if value and value != NONE and source is None:
            raise RowError(
                f"the value of {name} is in none of the mapped fields",
                got=quote(value),
                cure="map the column it was taken from, or empty the cell",
            )
        found.append(
            {
                "attribute": name.lower(),
                "value": value if source else NONE,
                "source": source or NONE,
            }
        )
    return json.dumps(found, ensure_ascii=False)


def _unique(identity: str, line: int, seen: dict[str, int]) -> None:
    if identity in seen:
        raise RowError(f"id {identity!r} is also on line {seen[identity]}")
    seen[identity] = line


def _split(text: str, wanted: Import) -> str:
    """Which file an input belongs to: the same wherever it stands in whatever table."""
    digest = hashlib.sha256(text.encode()).digest()
    place = int.from_bytes(digest[:8]) / 2**64
    if place < wanted.test:
        return "test"
    return "val" if place < wanted.test + wanted.val else "train"
