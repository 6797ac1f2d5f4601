"""Prompts: the text that a model reads before its answer.

The two frames are the published interface that trained eCeLLM models expect, kept
to the byte; an answer follows a prompt's last newline directly. Knows nothing of
tokens. A one-shot row's ``few_shot_example`` is not part of the prompt: the
published inference renders instruction, input and options only, and so do we.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from ecellm_mlx.errors import DataError
from ecellm_mlx.tasks.fields import LISTS
from ecellm_mlx.tasks.registry import Task

from converters import architectures

if TYPE_CHECKING:
    from ecellm_mlx.data.rows import Row

PREAMBLE = (
    "Below is an instruction that describes a task, paired with an input that provides "
    "further context. Write a response that appropriately completes the request.\n\n"
)


class Frame(StrEnum):
    """Where the blocks stand. Phi-2 and Llama-2 were trained with Alpaca's frame."""

    ALPACA = "alpaca"
    MISTRAL = "mistral"

    def render(self, instruction: str, input: str, options: str | None = None) -> str:
        """The whole prompt; without options their block is left out."""
        return "".join(self.segments(instruction, input, options))

    def segments(
        self, instruction: str, input: str, options: str | None = None
    ) -> tuple[str, str, str]:
        """The prompt as (head, input, tail), for callers that shorten the input."""
        start, end = ("[INST] ", " [/INST] ") if self is Frame.MISTRAL else ("", "")
        head = f"{start}{PREAMBLE}### Instruction:\n{instruction}\n\n### Input:\n"
        block = f"### Options:\n{options}\n\n" if options else ""
        return head, input, f"\n\n{block}{end}### Response:\n"


def frame_for(model_type: str, chat_template: str | None = None) -> Frame:
    """The frame for a model, by the ``model_type`` of its configuration.

    ``chat_template`` does not decide: Llama-2's holds ``[INST]`` as well, and its
    eCeLLM models were trained with Alpaca's frame.
    """
    del chat_template
    family = architectures.get(model_type)
    return Frame(family.frame) if family else Frame.ALPACA


def prompt(row: Row, frame: Frame) -> str:
    """The prompt of a row."""
    return frame.render(row.instruction, row.input, row.options)


def segments(row: Row, frame: Frame) -> tuple[str, str, str]:
    """The prompt of a row as (head, input, tail); joined they are ``prompt``."""
    return frame.segments(row.instruction, row.input, row.options)


def input_text(task: Task, values: Mapping[str, Any]) -> str:
    """The ``input`` of a row built from own values, written as the published rows are.

    Args:
        task: whose input it is.
        values: by field name (``task.fields``). Lists for ``LISTS`` and, if there are
            several, for ``target attributes``; text otherwise. What is None or empty
            counts as missing.

    Raises:
        DataError: a required field is missing, or a name is no field of the task.
    """
    present = {
        name: [value] if name in LISTS and isinstance(value, str) else value
        for name, value in values.items()
        if value not in (None, "", [])
    }
    if unknown := [name for name in values if name not in task.fields]:
        raise DataError(
            f"{task.name} has no field {unknown[0]!r}",
            expected=f"one of {', '.join(task.fields)}",
        )
    if missing := task.lacking(present):
        raise DataError(
            f"the input of {task.name} lacks {', '.join(missing)}",
            cure="map a column to each required field",
        )
    return task.form.write(task.fields, task.kind.arranged(present))
