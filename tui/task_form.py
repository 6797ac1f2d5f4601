"""The fields of a task's question, to and from a row. Knows no widgets.

A field that holds several texts (a history, a list of products, options) is edited as
one text with a line for each.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Mapping
from typing import Any

from ecellm_mlx.data.prompts import input_text
from ecellm_mlx.data.schema import Row, parse_options
from ecellm_mlx.errors import DataError, UsageError
from ecellm_mlx.tasks.fields import LISTS, OPTIONS, lettered
from ecellm_mlx.tasks.registry import Kind, Task, find

FREE = ""  # the task of a free prompt


def fields(task: Task) -> list[tuple[str, bool]]:
    """Names of the fields and whether each holds several lines."""
    listed = [(name, name in LISTS) for name in task.fields]
    return [*listed, (OPTIONS, True)] if task.kind is Kind.CHOICE else listed


def request_row(task: Task, values: Mapping[str, str]) -> dict[str, Any]:
    """The row that a model is asked.

    Raises:
        DataError, UsageError: a required field is empty, or there are no options.
    """
    options = None
    if task.kind is Kind.CHOICE:
        lines = _lines(values.get(OPTIONS, ""))
        if len(lines) < 2:
            raise UsageError("the question needs options", expected="at least two, one a line")
        options = json.dumps(lettered([_unlettered(line) for line in lines]))
    return {
        "task": task.name,
        "instruction": task.instruction,
        "input": input_text(task, given(task, values)),
        "options": options,
    }


def given(task: Task, values: Mapping[str, str]) -> dict[str, Any]:
    """The fields that are filled in, lists as lists."""
    found: dict[str, Any] = {}
    for name, several in fields(task):
        text = values.get(name, "").strip()
        if name != OPTIONS and text:
            found[name] = _lines(text) if several else text
    return found


def values_of(row: Row) -> dict[str, str]:
    """A row's question as the form shows it; the inverse of ``request_row``."""
    task = find(row.task)
    found: dict[str, str] = {}
    if task.short == "SA":
        found = {"review": row.input}
    elif task.short == "SR":
        items = ast.literal_eval(row.input)
        found = {"history": "\n".join(str(i).partition(": ")[2] or str(i) for i in items)}
    else:
        for name, value in json.loads(row.input).items():
            found |= _flat(name, value)
    if row.options:
        found[OPTIONS] = "\n".join(parse_options(row.options))
    return {name: found.get(name, "") for name, _ in fields(task)}


def example(task: Task) -> tuple[Row, dict[str, str]] | None:
    """The next sample row of ``task`` that the form can show, with its values."""
    from ecellm_mlx import sample
    from ecellm_mlx.data import rows

    for split in ("test.jsonl", "train.jsonl"):
        try:
            for row in rows.load(sample.folder() / split, tasks=[task.name]):
                try:
                    return row, values_of(row)
                except (ValueError, SyntaxError, AttributeError):
                    continue
        except DataError:
            continue
    return None


def _flat(name: str, value: Any) -> dict[str, str]:
    if isinstance(value, dict):
        return {f"{name}.{part}": _text(text) for part, text in value.items()}
    if isinstance(value, list):
        texts = [_unlettered(str(item)) for item in value]
        return {name: "\n".join(texts)}
    return {name: _text(value)}


def _text(value: Any) -> str:
    return "" if value is None or value != value or value == "nan" else str(value)


def _lines(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip()]


def _unlettered(text: str) -> str:
    """``A: first`` without its letter."""
    letter, separator, rest = text.partition(": ")
    return rest if separator and len(letter) == 1 and letter.isupper() else text
