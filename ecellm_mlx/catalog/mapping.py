"""From table columns to the fields of a task's input.

A mapping is ``field=column`` pairs. A field that is a constant instead of a column
is written ``field=:text`` (``target attributes=:Brand and Color``).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass

from ecellm_mlx.catalog.tables import Table
from ecellm_mlx.data.prompts import input_text
from ecellm_mlx.data.rows import Row
from ecellm_mlx.data.tasks import Task
from ecellm_mlx.errors import DataError, UsageError

SETTING = "catalog"


@dataclass(frozen=True)
class Mapping:
    """``columns`` maps fields to columns, ``constants`` fields to fixed text."""

    columns: dict[str, str]
    constants: dict[str, str]

    def to_dict(self) -> dict[str, str]:
        """As ``field -> column`` or ``field -> :text``."""
        return {**self.columns, **{field: f":{text}" for field, text in self.constants.items()}}


def parse(items: Iterable[str], task: Task, header: list[str]) -> Mapping:
    """Read ``--map`` options.

    Raises:
        UsageError: for all unknown fields and columns together.
    """
    columns: dict[str, str] = {}
    constants: dict[str, str] = {}
    problems = []
    for item in items:
        field, separator, column = item.partition("=")
        field = field.strip()
        if not separator:
            problems.append(f"{item!r} is not of the form field=column")
        elif field not in task.fields:
            problems.append(f"{task.name} has no field {field!r}")
        elif column.startswith(":"):
            constants[field] = column[1:]
        elif column not in header:
            problems.append(f"the table has no column {column!r}")
        else:
            columns[field] = column
    mapped = {**columns, **constants}
    problems += [f"{field!r} is not mapped" for field in task.required if field not in mapped]
    if not columns and not problems:
        problems.append("no field is taken from a column")
    if problems:
        raise UsageError(
            "--map: " + "; ".join(problems),
            expected=f"fields {', '.join(task.fields)} and columns {', '.join(header)}",
        )
    return Mapping(columns, constants)


@dataclass(frozen=True)
class Product:
    """A table row as a task's row; ``row`` is None where ``error`` says why."""

    key: str
    row: Row | None
    error: str = ""


def to_products(table: Table, mapping: Mapping, task: Task, instruction: str) -> list[Product]:
    """One product per table row, in order; equal inputs have equal keys."""
    places = {field: table.header.index(column) for field, column in mapping.columns.items()}
    products = []
    for cells in table.rows:
        values = {field: " ".join(cells[place].split()) for field, place in places.items()}
        values |= mapping.constants
        key = hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:32]
        try:
            text = input_text(task, values)
        except DataError as error:
            products.append(Product(key, None, error.what))
            continue
        products.append(Product(key, _row(key, task, instruction, text)))
    return products


def _row(key: str, task: Task, instruction: str, text: str) -> Row:
    return Row(
        id=key,
        instruction=instruction,
        input=text,
        options=None,
        output="",
        task=task.name,
        setting=SETTING,
        split="catalog",
        labels=None,
        few_shot_example=None,
    )
