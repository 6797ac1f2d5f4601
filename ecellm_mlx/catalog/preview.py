"""Look at a question before hours are spent on it: rendered prompts, a few live answers.

Prints nothing. ``prompts`` loads no model; ``answers`` loads it into this process.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from ecellm_mlx.catalog.answering import CatalogModel
from ecellm_mlx.data import prompts as frames
from ecellm_mlx.data.prompts import Frame
from ecellm_mlx.data.question import Question
from ecellm_mlx.data.rows import Row
from ecellm_mlx.errors import ModelError
from ecellm_mlx.models import registry
from ecellm_mlx.tables import Table, no_rows
from ecellm_mlx.tasks.values import Values

LIMIT = 5


@dataclass(frozen=True)
class Preview:
    """One row as the model will see it.

    Attributes:
        line: where it starts in the table.
        prompt: the whole text; empty where ``error`` says why there is none.
        options: the answers to choose from, if they are closed.
        answer, confidence: after ``answers``.
        error: why the row cannot be asked.
    """

    line: int
    prompt: str
    options: tuple[str, ...] = ()
    answer: str = ""
    confidence: float | None = None
    error: str = ""
    row: Row | None = None

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "line": self.line,
            "prompt": self.prompt,
            "options": list(self.options),
            "answer": self.answer,
            "confidence": self.confidence,
            "error": self.error,
        }


def prompts(
    table: Table, question: Question, *, model: str, limit: int = LIMIT
) -> list[Preview]:
    """The first rows of a table as prompts.

    Args:
        table: only its first rows are read.
        question: what is asked.
        model: decides the frame; it is not loaded.
        limit: how many rows.

    Raises:
        ModelError: there is no such model.
        DataError: the table has no rows.
    """
    frame = frame_of(registry.resolve(model))
    product_of = question.reader(table.names)
    previews = []
    for row in islice(table.good_rows(), limit):
        product = product_of(row.cells)
        if product.row is None:
            previews.append(Preview(row.line, "", error=product.error))
            continue
        text = frames.prompt(product.row, frame)
        previews.append(
            Preview(row.line, text, tuple(product.row.option_list), row=product.row)
        )
    if not previews:
        raise no_rows(table.path)
    return previews


def answers(
    previews: Sequence[Preview],
    *,
    model: str,
    adapter: str | None = None,
    values: Values = Values.SOURCE,
) -> list[Preview]:
    """The same rows with what the model answers.

    Raises:
        ModelError, AdapterError: they cannot be loaded.
    """
    result = list(previews)
    places = [place for place, preview in enumerate(previews) if preview.row]
    rows = [preview.row for preview in previews if preview.row]
    loaded = CatalogModel(model, adapter, batch_size=len(rows) or 1, values=values)
    for answer in loaded.answer(rows):
        place = places[answer.index]
        result[place] = replace(
            result[place], answer=answer.prediction, confidence=answer.probability
        )
    return result


def frame_of(model: Path) -> Frame:
    """The prompt frame of a model folder."""
    try:
        config = json.loads((model / "config.json").read_text(encoding="utf-8"))
        return frames.frame_for(str(config["model_type"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(
            f"{model / 'config.json'} cannot be read",
            got=str(error),
            cure="pull or copy the model again",
        ) from None
