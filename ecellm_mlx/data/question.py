"""What is asked about every product: task or own labels, mapping, instruction.

A ``Question`` is all that turns a row's cells into a prompt, and so all that an answer
depends on beside the model. Prints nothing and loads no model.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

from ecellm_mlx.data.prompts import input_text
from ecellm_mlx.data.rows import Row
from ecellm_mlx.errors import DataError, UsageError
from ecellm_mlx.tables import mapping as mappings
from ecellm_mlx.tables.mapping import Mapping
from ecellm_mlx.tasks.fields import OPTIONS, TARGETS, lettered
from ecellm_mlx.tasks.kind import Kind
from ecellm_mlx.tasks.registry import TASKS, Task
from ecellm_mlx.tasks.registry import find as find_task

SETTING = "catalog"
KEY_BYTES = 16
DEFAULT_MAX_WORDS = 200
LABEL_NAME = "label"
LABEL_INSTRUCTION = (
    "Read the product below and choose the option that describes it best. Reply with that "
    "option, copied in full, and nothing else."
)
# Rows with own labels are of this task for the engine: one option, written in full.
LABEL_TASK = "Multiclass_Product_Classification"


@dataclass(frozen=True)
class Product:
    """A table row as a task's row; ``row`` is None where ``error`` says why, or nothing is.

    Equal inputs have equal keys (16 bytes), whatever else their rows hold.
    """

    key: bytes
    row: Row | None
    error: str = ""


# What a row of separators is: nothing is asked, and nothing is wrong.
BLANK = Product(b"", None)


@dataclass(frozen=True)
class Question:
    """One question about every row of a table.

    Attributes:
        task_name: a task, or None for own labels.
        columns, constants: see ``Mapping``.
        instruction: what the model is told.
        labels: the closed list of own labels; empty for a task's own answers.
        name: of the result columns, ``ecellm_<name>``.
        max_words: longer cells are cut.
    """

    task_name: str | None
    columns: dict[str, str]
    constants: dict[str, str]
    instruction: str
    labels: tuple[str, ...] = ()
    name: str = LABEL_NAME
    max_words: int = DEFAULT_MAX_WORDS

    @cached_property
    def task(self) -> Task | None:
        """The task; None for own labels."""
        return find_task(self.task_name) if self.task_name else None

    @property
    def mapping(self) -> Mapping:
        """Columns and constants."""
        return Mapping(self.columns, self.constants)

    @property
    def kind(self) -> Kind:
        """The kind of answer."""
        return self.answer_task.kind

    @property
    def answer_task(self) -> Task:
        """The task that answers are of; own labels are options of one."""
        return self.task or find_task(LABEL_TASK)

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return {**asdict(self), "labels": list(self.labels)}

    @staticmethod
    def from_dict(value: dict[str, Any]) -> Question:
        """The inverse of ``to_dict``."""
        return Question(**{**value, "labels": tuple(value["labels"])})

    def reader(self, names: Sequence[str]) -> Callable[[Sequence[str]], Product]:
        """Turns the cells of a row, which are of the columns ``names``, into a product."""
        places = {field: names.index(column) for field, column in self.columns.items()}

        def product_of(cells: Sequence[str]) -> Product:
            if not any(cell.strip() for cell in cells):
                return BLANK
            values: dict[str, Any] = {
                field: mappings.value_of(field, cells[place], self.max_words)
                for field, place in places.items()
            }
            values |= self.constants
            text = json.dumps(values, sort_keys=True)
            key = hashlib.sha256(text.encode()).digest()[:KEY_BYTES]
            try:
                return Product(key, self._row(key, values))
            except DataError as error:
                return Product(key, None, error.what)

        return product_of

    def _row(self, key: bytes, values: dict[str, Any]) -> Row:
        own = values.pop(OPTIONS, None)
        options = self._options(own)
        if self.task:
            text = input_text(self.task, values)
        else:
            present = {field: value for field, value in values.items() if value}
            if not present:
                raise DataError("the input lacks " + ", ".join(values))
            text = json.dumps(present)
        return Row(
            id=key.hex(),
            instruction=self.instruction,
            input=text,
            options=json.dumps(options) if options else None,
            output="",
            task=self.answer_task.name,
            setting=SETTING,
            split=SETTING,
        )

    def _options(self, own: list[str] | None) -> list[str]:
        """The options of one row: its own, the labels, or those of the published rows."""
        if not self.kind.takes_options:
            return []
        if OPTIONS in self.columns:
            options = list(dict.fromkeys(own or ()))
            if len(options) < 2:
                raise DataError(f"column {self.columns[OPTIONS]!r} holds no two options")
        elif self.labels:
            options = list(self.labels)
        else:
            options = list(self.kind.default_options)
        # A task's answers refer to letters; own labels stand for themselves.
        return lettered(options) if self.task else options


def build(
    names: Sequence[str],
    *,
    task: str | None,
    mapping: Sequence[str],
    instruction: str | None = None,
    labels: Sequence[str] = (),
    attributes: Sequence[str] = (),
    name: str | None = None,
    max_words: int = DEFAULT_MAX_WORDS,
) -> Question:
    """A question about a table with the columns ``names``.

    Args:
        names: the table's columns.
        task: a task's name; None with ``labels``.
        mapping: ``--map`` options.
        instruction: instead of the task's own.
        labels: a closed list to choose from, instead of the task's options.
        attributes: what to extract, for Attribute_Value_Extraction.
        name: of the result columns.
        max_words: longer cells are cut.

    Raises:
        UsageError: what contradicts itself, and all that is wrong with the mapping.
    """
    chosen = find_task(task) if task else None
    if chosen is None and not labels and not any(m.startswith(f"{OPTIONS}=") for m in mapping):
        raise UsageError(
            "there is nothing to ask: neither --task nor --labels was given",
            cure="name a task such as AVE, or your own --labels",
        )
    if labels and chosen and not chosen.kind.takes_options:
        raise UsageError(
            f"--labels does not go with --task {chosen.name}, whose answers are "
            f"{chosen.kind.name}",
            cure="leave --task out to choose from your own labels",
        )
    if attributes:
        if not chosen or not chosen.extracts:
            fitting = " or ".join(task.name for task in TASKS.values() if task.extracts)
            raise UsageError(f"--attributes is for --task {fitting}")
        mapping = [*mapping, f"{TARGETS}=:{' and '.join(attributes)}"]
    parsed = mappings.parse(mapping, chosen, names)
    if chosen and chosen.needs_options and not labels and OPTIONS not in parsed.columns:
        raise UsageError(
            f"--task {task} needs options to choose from",
            cure=f'map a column to them with --map "{OPTIONS}=COLUMN"',
        )
    return Question(
        task_name=chosen.name if chosen else None,
        columns=parsed.columns,
        constants=parsed.constants,
        instruction=instruction or (chosen.instruction if chosen else LABEL_INSTRUCTION),
        labels=tuple(labels),
        name=name or (chosen.name.lower() if chosen else LABEL_NAME),
        max_words=max_words,
    )
