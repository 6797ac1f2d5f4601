"""What a row is: its fields, and what makes an answer fit its task.

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
from ecellm_mlx.tasks.registry import Answer, Kind, Task, find

OWN_SETTING = "own"  # of rows that name none
JUDGMENTS = ("E", "S", "C", "I")  # exact, substitute, complement, irrelevant
EXTRACTED = ("attribute", "value", "source")


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

    @property
    def option_letters(self) -> list[str]:
        """The first character of each option, which answers refer to."""
        return [option[0] for option in self.option_list]


class RowError(Exception):
    """A row is wrong. ``parts`` is what, got, expected and cure, without a line."""

    def __init__(self, what: str, got: str = "", expected: str = "", cure: str = "") -> None:
        super().__init__(what)
        self.parts = (what, got, expected, cure)


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
        RowError: a field is missing or of the wrong type, or the answer does not fit.
    """
    if not isinstance(item, dict):
        raise RowError("the row is not a JSON object", got=_kind(item), expected="an object")
    task = _task(item)
    identity = item.get("id")
    if isinstance(identity, int) and not isinstance(identity, bool):
        identity = str(identity)
    if identity is not None and (not isinstance(identity, str) or not identity):
        raise RowError("field 'id' is not usable", got=_kind(identity), expected="text")
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
    _check_answer(row, task)
    return row


def _task(item: dict[str, Any]) -> Task:
    name = _text(item, "task")
    try:
        return find(name)
    except DataError as error:
        raise RowError(error.what, expected=error.expected) from None


def _text(item: dict[str, Any], name: str, *, optional: bool = False) -> str:
    value = item.get(name)
    if value is None and optional:
        return ""
    if name not in item:
        raise RowError(f"field {name!r} is missing", expected="text")
    if not isinstance(value, str):
        cure = "write it as one string" if isinstance(value, dict | list) else ""
        raise RowError(
            f"field {name!r} is of the wrong type", got=_kind(value), expected="text", cure=cure
        )
    if not value.strip() and not optional:
        raise RowError(f"field {name!r} is empty", expected="text")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise RowError(
                f"field {name!r} holds half of a character",
                got=f"\\u{ord(value[error.start]):04x}",
                cure="correct the text; it was probably cut in the middle of an emoji",
            ) from None
    return value


def _check_answer(row: Row, task: Task) -> None:
    if task.answer is Answer.YES_NO and row.output not in ("yes", "no"):
        raise RowError("the output is no answer", got=quote(row.output), expected="yes or no")
    if task.kind is Kind.CHOICE:
        if row.options is None:
            raise RowError("field 'options' is missing", expected=f"a list, as {task.name} is")
        try:
            options = row.option_list
        except ValueError as error:
            raise RowError(
                "the options cannot be read",
                got=str(error),
                expected="a JSON list of texts as one string",
            ) from None
        allowed = row.option_letters if task.answer is Answer.LETTER else options
        if row.output not in allowed:
            raise RowError(
                "the output is none of the options",
                got=quote(row.output),
                expected="one of " + ", ".join(quote(option) for option in allowed),
            )
    if task.kind is Kind.RANKING:
        letters = row.output.split(",")
        if sorted(letters) != [chr(ord("A") + n) for n in range(len(letters))]:
            raise RowError(
                "the output is no ranking",
                got=quote(row.output),
                expected="each letter from A on once, separated by commas, such as B,A,C",
            )
        if row.labels is not None:
            check_judgments(row.labels, row.output)


def check_judgments(labels: Any, output: str) -> None:
    """Raise ``RowError`` unless ``labels`` judges each product that ``output`` ranks."""
    count = output.count(",") + 1
    if not isinstance(labels, list) or any(label not in JUDGMENTS for label in labels):
        raise RowError(
            "field 'labels' is of the wrong type",
            got=quote(json.dumps(labels)),
            expected="a list of E, S, C and I",
        )
    if len(labels) != count:
        raise RowError(
            "field 'labels' is of the wrong length",
            got=f"{len(labels)} labels",
            expected=f"{count}, one for each ranked product",
        )


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "text", bool: "true or false"}
    if value is None:
        return "null"
    return names.get(type(value), "a number")


def is_extraction(item: Any) -> bool:
    """Whether ``item`` is an object with an attribute, a value and a source."""
    return isinstance(item, dict) and all(key in item for key in EXTRACTED)


def quote(text: str) -> str:
    """``text`` in quotation marks, shortened for a message."""
    return repr(text if len(text) <= 60 else text[:57] + "…")
