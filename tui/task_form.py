"""The fields of a task's question, to and from a row. Knows no widgets.

A field that holds several texts (a history, a list of products, options) is edited as
one text with a line for each.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ecellm_mlx.data.prompts import input_text
from ecellm_mlx.data.schema import Row, parse_options
from ecellm_mlx.errors import DataError, UsageError
from ecellm_mlx.tasks.fields import LISTS, OPTIONS, lettered, unlettered
from ecellm_mlx.tasks.registry import Task, find

FREE = ""  # the task of a free prompt


def fields(task: Task) -> list[tuple[str, bool]]:
    """Names of the fields and whether each holds several lines."""
    return [(name, name in (*LISTS, OPTIONS)) for name in task.asked]


def request_row(task: Task, values: Mapping[str, str]) -> dict[str, Any]:
    """The row that a model is asked.

    Raises:
        DataError, UsageError: a required field is empty, or there are no options.
    """
    options = None
    if task.kind.takes_options:
        lines = _lines(values.get(OPTIONS, ""))
        if len(lines) < 2:
            raise UsageError("the question needs options", expected="at least two, one a line")
        options = json.dumps(lettered([unlettered(line) for line in lines]))
    return {
        "task": task.name,
        "instruction": task.instruction,
        "input": input_text(task, given(task, values)),
        "options": options,
    }


def given(task: Task, values: Mapping[str, str]) -> dict[str, Any]:
    """The fields that are filled in, lists as lists."""
    texts = ((name, several, values.get(name, "").strip()) for name, several in fields(task))
    return {
        name: _lines(text) if several else text
        for name, several, text in texts
        if name != OPTIONS and text
    }


def values_of(row: Row) -> dict[str, str]:
    """A row's question as the form shows it; the inverse of ``request_row``."""
    task = find(row.task)
    texts = task.form.read(task.fields, row.input)
    if row.options:
        texts[OPTIONS] = parse_options(row.options)
    return {
        name: text if isinstance(text := texts.get(name, ""), str) else "\n".join(text)
        for name, _ in fields(task)
    }


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


def _lines(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip()]
