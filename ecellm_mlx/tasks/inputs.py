"""How the input of a question is written, and read back into its fields.

A form writes the values of a task's fields as the published rows do, to the byte, and
reads such a text into the texts of its fields, for those who edit them. A field that
holds several texts (``fields.LISTS``) is a list.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ecellm_mlx.tasks.fields import unlettered

DESCRIPTION_WORDS = 50  # of each product in the published matching rows
Fields = dict[str, str | list[str]]


@dataclass(frozen=True)
class InputForm:
    """``write`` makes text of the values that are there; ``read`` is its inverse.

    Both are told the names of the task's fields. ``read`` raises ``ValueError``,
    ``SyntaxError`` or ``AttributeError`` for a text of another form.
    """

    write: Callable[[Sequence[str], Mapping[str, Any]], str]
    read: Callable[[Sequence[str], str], Fields]


def _write_object(names: Sequence[str], values: Mapping[str, Any]) -> str:
    return json.dumps({name: values[name] for name in names if name in values})


def _read_object(names: Sequence[str], text: str) -> Fields:
    del names
    fields: Fields = {}
    for name, value in json.loads(text).items():
        if isinstance(value, dict):
            fields |= {f"{name}.{part}": _plain(item) for part, item in value.items()}
        elif isinstance(value, list):
            fields[name] = [unlettered(str(item)) for item in value]
        else:
            fields[name] = _plain(value)
    return fields


def _plain(value: Any) -> str:
    return "" if value is None or value != value or value == "nan" else str(value)


def _write_text(names: Sequence[str], values: Mapping[str, Any]) -> str:
    return str(values[names[0]])


def _read_text(names: Sequence[str], text: str) -> Fields:
    return {names[0]: text}


def _write_numbered(names: Sequence[str], values: Mapping[str, Any]) -> str:
    return str([f"{_ordinal(n)}: {item}" for n, item in enumerate(values[names[0]], 1)])


def _read_numbered(names: Sequence[str], text: str) -> Fields:
    items = ast.literal_eval(text)
    return {names[0]: [str(item).partition(": ")[2] or str(item) for item in items]}


def _ordinal(number: int) -> str:
    if number % 100 in (11, 12, 13):
        return f"{number}th"
    return f"{number}{({1: 'st', 2: 'nd', 3: 'rd'}).get(number % 10, 'th')}"


def _write_pair(names: Sequence[str], values: Mapping[str, Any]) -> str:
    del names
    return json.dumps({f"product {n}": _product(values, n) for n in (1, 2)})


def _product(values: Mapping[str, Any], number: int) -> dict[str, Any]:
    def part(name: str) -> str | None:
        value = values.get(f"product {number}.{name}")
        return None if value is None else str(value)

    words = (part("description") or "").split(" ")
    description = " ".join(words)
    if len(words) > DESCRIPTION_WORDS:
        description = " ".join(words[:DESCRIPTION_WORDS]).strip(".") + "..."
    return {
        "title": part("title"),
        # Upstream wrote these from a data frame, so what is missing reads NaN or nan.
        "description": description or float("nan"),
        "manufacturer": part("manufacturer") or "nan",
        "price": part("price") or "nan",
    }


OBJECT = InputForm(_write_object, _read_object)  # {"query": …, "product": …}
TEXT = InputForm(_write_text, _read_text)  # the one field as it is
NUMBERED = InputForm(_write_numbered, _read_numbered)  # ['1st: …', '2nd: …']
PAIR = InputForm(_write_pair, _read_object)  # {"product 1": {"title": …}, "product 2": …}
