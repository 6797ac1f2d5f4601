"""What a row is: its fields and their types. Whether an answer fits is its task's to say.

Knows nothing of files. ``input`` is text and is never parsed: upstream rows hold the
bare token ``NaN``, which strict JSON refuses. Unknown fields of a row are ignored.
"""

from __future__ import annotations

import ast
import json
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from ecellm_mlx.errors import DataError
from ecellm_mlx.tasks.registry import Task, find

OWN_SETTING = "own"  # of rows that name none


@dataclass(frozen=True)
class Row:
    """One question with its answer.

    Attributes:
        id: unique in its file; rows without one get ``<file stem>:<number of the row>``.
        instruction, input, output: text, as the model sees it.
        options: the options block as text: a JSON list or a Python one; None if there is none.
        task: the canonical name, a key of ``TASKS``.
        setting: such as ``IND_Diverse_Instruction``; ``own`` if the row names none.
        split: such as ``test``; empty if the row names none.
        labels: E/S/C/I judgment of each ranked product, which NDCG needs.
        few_shot_example: an example that one-shot rows carry.
    """

    id: str
    instruction: str
    input: str
    options: str | None
    output: str
    task: str
    setting: str
    split: str
    labels: list[str] | None = None
    few_shot_example: str | None = None

    @cached_property
    def option_list(self) -> list[str]:
        """The options one by one; empty if there are none.

        Raises:
            ValueError: ``options`` is no list of texts.
        """
        return parse_options(self.options) if self.options else []


def parse_options(text: str) -> list[str]:
    """The options in ``text``, a JSON list or a Python list literal of texts.

    Raises:
        ValueError: ``text`` is neither, is empty, or holds something else than text.
    """
    try:
        options = json.loads(text)
    except ValueError:
        try:
            options = ast.literal_eval(text)
        except (SyntaxError, TypeError, MemoryError, RecursionError) as error:
            raise ValueError(f"no list literal ({type(error).__name__})") from None
    if not isinstance(options, list) or not options:
        raise ValueError("no list with entries")
    if not all(isinstance(option, str) and option for option in options):
        raise ValueError("an option that is empty or no text")
    return options


def row_from(item: Any, default_id: str, default_split: str) -> Row:
    """The validated row in a JSON value.

    Raises:
        DataError: a field is missing or of the wrong type, or the answer does not fit. It
            names no file and no line; ``json_items.Finding.of`` adds them.
    """
    if not isinstance(item, dict):
        raise DataError("the row is not a JSON object", got=_kind(item), expected="an object")
    task = _task(item)
    identity = item.get("id")
    if isinstance(identity, int) and not isinstance(identity, bool):
        identity = str(identity)
    if identity is not None and (not isinstance(identity, str) or not identity):
        raise DataError("field 'id' is not usable", got=_kind(identity), expected="text")
    example = item.get("few_shot_example")
    if not isinstance(example, str | None):
        example = json.dumps(example)
    row = Row(
        id=identity or default_id,
        instruction=_text(item, "instruction"),
        input=_text(item, "input"),
        options=_text(item, "options", optional=True) or None,
        output=_text(item, "output"),
        task=task.name,
        setting=_text(item, "setting", optional=True) or OWN_SETTING,
        split=_text(item, "split", optional=True) or default_split,
        labels=item.get("labels"),
        few_shot_example=example,
    )
    task.kind.check(row)
    return row


def _task(item: dict[str, Any]) -> Task:
    name = _text(item, "task")
    try:
        return find(name)
    except DataError as error:
        raise DataError(error.what, expected=error.expected) from None


def _text(item: dict[str, Any], name: str, *, optional: bool = False) -> str:
    value = item.get(name)
    if value is None and optional:
        return ""
    if name not in item:
        raise DataError(f"field {name!r} is missing", expected="text")
    if not isinstance(value, str):
        cure = "write it as one string" if isinstance(value, dict | list) else ""
        raise DataError(
            f"field {name!r} is of the wrong type", got=_kind(value), expected="text", cure=cure
        )
    if not value.strip() and not optional:
        raise DataError(f"field {name!r} is empty", expected="text")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise DataError(
                f"field {name!r} holds half of a character",
                got=f"\\u{ord(value[error.start]):04x}",
                cure="correct the text; it was probably cut in the middle of an emoji",
            ) from None
    return value


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "text", bool: "true or false"}
    if value is None:
        return "null"
    return names.get(type(value), "a number")
