"""From table columns to the fields of a task's input.

A mapping is ``field=column`` pairs. A field that is a constant instead of a column is
written ``field=:text`` (``target attributes=:Brand and Color``). Columns are addressed as
``tables.addresses`` says.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ecellm_mlx.errors import UsageError
from ecellm_mlx.tables.text import readable
from ecellm_mlx.tasks.fields import LISTS, OPTIONS
from ecellm_mlx.tasks.registry import Task


@dataclass(frozen=True)
class Mapping:
    """``columns`` maps fields to columns, ``constants`` fields to fixed text."""

    columns: dict[str, str]
    constants: dict[str, str]

    def items(self) -> list[str]:
        """As ``--map`` options."""
        return [
            *(f"{field}={column}" for field, column in self.columns.items()),
            *(f"{field}=:{text}" for field, text in self.constants.items()),
        ]


def parse(items: Iterable[str], task: Task | None, names: Sequence[str]) -> Mapping:
    """Read ``--map`` options.

    Args:
        items: ``field=column`` or ``field=:text``.
        task: whose fields they are; None where fields may have any name.
        names: the table's columns.

    Raises:
        UsageError: for all unknown fields and columns together.
    """
    columns: dict[str, str] = {}
    constants: dict[str, str] = {}
    problems = []
    for item in items:
        field, separator, column = item.partition("=")
        field = field.strip()
        if not separator or not field:
            problems.append(f"{item!r} is not of the form field=column")
        elif field in columns or field in constants:
            problems.append(f"{field!r} is mapped twice")
        elif task and field not in task.asked:
            problems.append(f"{task.name} has no field {field!r}")
        elif column.startswith(":"):
            constants[field] = column[1:]
        elif column not in names:
            problems.append(f"the table has no column {column!r}")
        else:
            columns[field] = column
    if task:
        problems += [f"{field!r} is not mapped" for field in task.lacking(columns, constants)]
    if not columns and not problems:
        problems.append("no field is taken from a column")
    if problems:
        fields = ", ".join(task.asked) if task else "of your choice"
        raise UsageError(
            "--map: " + "; ".join(problems),
            expected=f"fields {fields} and columns {', '.join(names)}",
        )
    return Mapping(columns, constants)


def value_of(field: str, cell: str, max_words: int) -> str | list[str]:
    """A cell as the value of a field: as a person reads it, in one line, long text cut."""
    if field in LISTS or field == OPTIONS:
        return split_list(cell)
    words = readable(cell).split()
    return " ".join(words[:max_words])


def split_list(cell: str) -> list[str]:
    """The entries of a cell that holds several texts: a JSON list, lines, or ``a | b``."""
    if cell.lstrip().startswith("["):
        try:
            entries = json.loads(cell)
        except ValueError:
            entries = None
        if isinstance(entries, list):
            return [" ".join(str(entry).split()) for entry in entries if str(entry).strip()]
    parts = cell.split("|") if "|" in cell else cell.splitlines()
    return [" ".join(part.split()) for part in parts if part.strip()]
