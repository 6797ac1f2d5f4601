"""Rows as an engine takes them: prompt tokens, closed options, room for the answer.

A prompt that is too long for the model loses text of its *input* only: its longest
texts are shortened, so that names of fields, letters of products and target attributes
stay. Instruction and options are never touched.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from ecellm_mlx.data import prompts
from ecellm_mlx.data.rows import Row
from ecellm_mlx.errors import DataError
from ecellm_mlx.models.loading import LoadedModel
from ecellm_mlx.tasks.fields import TARGETS
from ecellm_mlx.tasks.registry import Task
from ecellm_mlx.tasks.registry import find as find_task

from converters import architectures

# Characters of an input's texts below which none is shortened any further.
MIN_CHARACTERS = 8


@dataclass(frozen=True)
class Option:
    """One answer of a closed set: as it is written, and its tokens after a prompt."""

    text: str
    tokens: tuple[int, ...]


@dataclass(frozen=True)
class Request:
    """A row with its tokens.

    Attributes:
        row: the row, its input shortened if need be.
        task: what is asked.
        prompt: token ids.
        group: rows of one group share a prefix.
        options: the closed set of answers; empty for open tasks. For rankings, the
            ranked letters.
        shortened: tokens that the input lost.
    """

    row: Row
    task: Task
    prompt: tuple[int, ...]
    group: str
    options: tuple[Option, ...] = field(default=())
    shortened: int = 0


class Reader:
    """Turns rows into requests for one model.

    Args:
        base: whose tokenizer, frame and context length count.
        max_context: most tokens of prompt and answer together; the model's own limit
            if that is less or none is given.
        warn: receives a sentence for each row that had to be shortened.
    """

    def __init__(
        self,
        base: LoadedModel,
        *,
        max_context: int | None = None,
        warn: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._encode: Callable[..., list[int]] = base.tokenizer.encode
        self._frame = base.frame
        self._warn = warn
        limits = [n for n in (context_length(base.config), max_context) if n]
        self.max_context = min(limits) if limits else None
        # What stands before every answer; its border to an answer is the prompt's.
        self._tail = base.frame.segments("", "")[2]
        self._tail_tokens = self._encode(self._tail)

    def request(self, row: Row, labels: Sequence[str] | None = None) -> Request:
        """A row as a request; ``labels`` replace the task's own closed set of answers.

        Raises:
            DataError: the answer set cannot be derived, or instruction and options
                alone are too long for the model.
        """
        task = find_task(row.task)
        texts = task.kind.options(row) if labels is None else labels
        if texts or labels is not None:
            _check_different(row, texts)
        options = tuple(Option(text, self.answer_tokens(text)) for text in texts)
        longest = max((len(option.tokens) for option in options), default=task.max_new_tokens)
        row, tokens, lost = self._fitted(row, longest)
        group = prompts.segments(row, self._frame)[0]
        return Request(row, task, tokens, group, options, lost)

    def text(self, prompt: str) -> tuple[int, ...]:
        """The tokens of a prompt that is no row."""
        return tuple(self._encode(prompt))

    def answer_tokens(self, answer: str) -> tuple[int, ...]:
        """The tokens of an answer as they follow a prompt."""
        border = len(self._tail_tokens)
        whole = self._encode(self._tail + answer)
        if whole[:border] == self._tail_tokens and len(whole) > border:
            return tuple(whole[border:])
        # The tokenizer merges the border; such an answer stands by itself.
        return tuple(self._encode(answer, add_special_tokens=False))

    def _fitted(self, row: Row, answer_length: int) -> tuple[Row, tuple[int, ...], int]:
        """The row, its prompt, and how many tokens of its input were cut."""
        tokens = tuple(self._encode(prompts.prompt(row, self._frame)))
        if self.max_context is None or len(tokens) + answer_length <= self.max_context:
            return row, tokens, 0
        room = self.max_context - answer_length
        whole, shorter, fits = len(tokens), row, False
        # Characters to keep, by bisection: tokens hardly ever grow when text shrinks.
        low, high = 0, len(row.input)
        while low < high:
            keep = (low + high + 1) // 2
            candidate = replace(row, input=shortened(row.input, keep))
            length = len(self._encode(prompts.prompt(candidate, self._frame)))
            if length <= room:
                low, shorter, fits = keep, candidate, True
            else:
                high = keep - 1
        if not fits:
            shorter = replace(row, input=shortened(row.input, 0))
        tokens = tuple(self._encode(prompts.prompt(shorter, self._frame)))
        if len(tokens) > room:
            raise DataError(
                f"row {row.id} does not fit into the model's context even with its input "
                "shortened",
                got=f"{len(tokens)} tokens",
                expected=f"at most {max(room, 0)} beside an answer of {answer_length}",
                cure="shorten its instruction or options, or use a model of longer context",
            )
        self._warn(
            f"row {row.id}: its prompt of {whole} tokens is too long for the model, so its "
            f"input was shortened by {whole - len(tokens)} tokens"
        )
        return shorter, tokens, whole - len(tokens)


def context_length(config: dict[str, Any]) -> int | None:
    """Most tokens that a model was made for; None if its configuration does not say.

    mlx-lm attends to all tokens where some models, such as Mistral's first version,
    attend to a sliding window; both are the same as long as the window holds everything.
    """
    config = {**config, **config.get("text_config", {})}
    limits = [config.get("max_position_embeddings")]
    family = architectures.get(config.get("model_type"))
    if family and family.ignores_window(config):
        limits.append(config.get("sliding_window"))
    return min((n for n in limits if isinstance(n, int) and n > 0), default=None)


def shortened(text: str, characters: int) -> str:
    """An input of a row whose texts hold about ``characters`` characters in all.

    The longest texts of a JSON object or a Python list are cut, to one length; the
    structure stays. Other text loses its end.
    """
    try:
        value: Any = json.loads(text)
        write: Callable[[Any], str] = partial(json.dumps, ensure_ascii=text.isascii())
    except (ValueError, RecursionError):
        try:
            value, write = ast.literal_eval(text), str
        except (SyntaxError, ValueError, TypeError, MemoryError, RecursionError):
            value = text
    if not isinstance(value, dict | list):
        return text[: max(characters, MIN_CHARACTERS)].rstrip()
    lengths = sorted(len(leaf) for leaf in _leaves(value))
    # Water-filling: the cap at which the texts have `characters` in all.
    left = characters
    for place, length in enumerate(lengths):
        cap = left // (len(lengths) - place)
        if length > cap:
            return write(_capped(value, max(cap, MIN_CHARACTERS)))
        left -= length
    return text


def _leaves(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    if isinstance(value, list):
        return [leaf for item in value for leaf in _leaves(item)]
    if isinstance(value, dict):
        return [leaf for k, item in value.items() if k != TARGETS for leaf in _leaves(item)]
    return []


def _capped(value: Any, cap: int) -> Any:
    if isinstance(value, str):
        return value if len(value) <= cap else value[:cap].rstrip()
    if isinstance(value, list):
        return [_capped(item, cap) for item in value]
    if isinstance(value, dict):
        return {k: item if k == TARGETS else _capped(item, cap) for k, item in value.items()}
    return value


def _check_different(row: Row, labels: Sequence[str]) -> None:
    repeated = [label for n, label in enumerate(labels) if label in labels[:n]]
    if repeated or not labels or "" in labels:
        raise DataError(
            f"row {row.id}: its options are no set of different texts",
            got=repr(repeated[0]) + " twice" if repeated else "an empty one",
            cure="correct the options",
        )
