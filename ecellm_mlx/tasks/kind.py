"""What a kind of answer is asked for: one class a kind, all that depends on it in one place.

A kind checks an expected answer, says what a model may answer, reads an answer, scores it
(as published and strictly), counts for resampling, and turns cells of a table into an
answer. Whoever imports, decodes, evaluates or shows a form asks the kind and never which
one it is.

Kinds know texts only. An ``Example`` is whatever has the texts of a question and its
answer; rows, files and models are unknown here. ``tally`` holds what needs numpy, and is
loaded when something is scored.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from ecellm_mlx.errors import DataError
from ecellm_mlx.tasks.fields import OUTPUT
from ecellm_mlx.tasks.values import Values

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ecellm_mlx.tasks.tally import Tally, TextScorer

INVALID = "invalid"


class Example(Protocol):
    """A question with its expected answer, as text; rows are examples."""

    @property
    def id(self) -> str:
        """Names it in errors."""

    @property
    def input(self) -> str:
        """The input as it is written."""

    @property
    def options(self) -> str | None:
        """The options block as it is written; None if there is none."""

    @property
    def option_list(self) -> list[str]:
        """The options one by one; raises ``ValueError`` where they cannot be read."""

    @property
    def output(self) -> str:
        """The expected answer."""

    @property
    def labels(self) -> list[str] | None:
        """E/S/C/I judgment of each ranked product; None if there are none."""

    @property
    def setting(self) -> str:
        """Such as ``OOD_Diverse_Instruction``."""


class Constraint(StrEnum):
    """What a valid answer is held to, which decides how it is decoded."""

    OPTIONS = "options"  # one of ``Kind.options``
    ORDER = "order"  # all of ``Kind.options``, each once, separated by commas
    GRAMMAR = "grammar"  # a text of ``Kind.grammar``
    NONE = "none"  # any text


@dataclass(frozen=True)
class AnswerCells:
    """What the columns of a table say about one answer (``Kind.answer_columns``).

    Attributes:
        output: the cell with the answer.
        labels: judgments, one for each product.
        attributes: the value of each attribute that has a column.
    """

    output: str = ""
    labels: Sequence[str] = ()
    attributes: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Predicted:
    """Answers as text, one for each example.

    Attributes:
        texts: the answers.
        examples: what was asked.
        text_scorer: BERTScore, for free text; None where it is not at hand.
    """

    texts: Sequence[str]
    examples: Sequence[Example]
    text_scorer: TextScorer | None = None

    @property
    def pairs(self) -> list[tuple[str, Example]]:
        """Each answer with its example."""
        return list(zip(self.texts, self.examples, strict=True))

    @cached_property
    def text_scores(self) -> NDArray[np.float64] | None:
        """Precision, recall and F1 of each answer, (n, 3); None without a scorer."""
        if self.text_scorer is None:
            return None
        expected = [example.output for example in self.examples]
        return self.text_scorer(list(self.texts), expected)


class Kind(ABC):
    """A kind of answer; see the module.

    Attributes:
        name: for humans.
        constraint: what valid answers are held to.
        metrics: keys of its official metrics, all of which ``score`` reports.
        takes_options: whether a question carries options to choose from.
        binary: whether answers are yes or no, so that a threshold divides them.
        judged: whether examples need ``labels`` to be scored.
        answer_columns: what columns of a table can give the answer; a name that ends with
            a dot is followed by an attribute's.
    """

    name: ClassVar[str]
    constraint: ClassVar[Constraint]
    metrics: ClassVar[tuple[str, ...]]
    takes_options: ClassVar[bool] = False
    binary: ClassVar[bool] = False
    judged: ClassVar[bool] = False
    answer_columns: ClassVar[tuple[str, ...]] = (OUTPUT,)

    @property
    def default_options(self) -> tuple[str, ...]:
        """The options of the published rows, which serve where a question has none."""
        return ()

    # What is asked.

    def check(self, example: Example) -> None:
        """Raise ``DataError`` unless the expected answer is one of this kind."""
        del example

    def doubts(self, examples: Sequence[Example]) -> Iterator[tuple[int, DataError]]:
        """What is odd about examples that may be used all the same, each by its place."""
        del examples
        yield from ()

    def arranged(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """The fields of an input as this kind's inputs hold them."""
        return dict(values)

    # What may be predicted.

    def options(self, example: Example) -> list[str]:
        """The closed set that an answer is made of, as written; empty for other kinds.

        Raises:
            DataError: the example has none.
        """
        del example
        return []

    def grammar(self, example: Example, values: Values) -> str:
        """A Lark grammar of the valid answers, where ``constraint`` is one.

        Raises:
            DataError: the example does not say what to answer.
        """
        raise DataError(f"{self.name} answers have no grammar")

    def parts(self, example: Example) -> int:
        """How many answers there are in one; its probability is the product of theirs."""
        del example
        return 1

    def result_parts(self, constants: Mapping[str, str]) -> list[str]:
        """Parts of an answer that deserve columns, if fields are the same for all rows."""
        del constants
        return []

    def part_values(self, answer: str, parts: Sequence[str]) -> list[str]:
        """The value of each of ``result_parts`` in an answer."""
        del answer
        return [""] * len(parts)

    # How an answer is scored.

    @abstractmethod
    def parse(self, text: str) -> Any:
        """The answer in ``text`` as the published evaluator reads it; None if invalid."""

    def invalid(self, text: str, example: Example) -> int:
        """The published evaluator's count of what is invalid in an answer."""
        del example
        return int(self.parse(text) is None)

    @abstractmethod
    def tally(self, predicted: Predicted, *, strict: bool) -> Tally | None:
        """Counts of answers, of which there are some; None where no metric is.

        Args:
            predicted: the answers.
            strict: count an invalid one as wrong; otherwise as published.
        """

    def not_computed(self, predicted: Predicted) -> str:
        """Why a metric of these examples is None, whatever was answered; empty if it isn't."""
        del predicted
        return ""

    def expected(self, example: Example) -> Any:
        """What ``parse`` makes of a right answer."""
        return self.parse(example.output)

    def qualities(self, predicted: Predicted) -> list[float]:
        """How good each answer is: 1 is perfect, less than 0 invalid."""
        answers = [(self.parse(text), example) for text, example in predicted.pairs]
        return [
            -1.0 if answer is None else float(answer == self.expected(example))
            for answer, example in answers
        ]

    def details(self, predicted: Predicted) -> dict[str, Any]:
        """Breakdowns beside the metrics, as JSON values by name."""
        del predicted
        return {}

    # How a table's answers become ours.

    @abstractmethod
    def written(self, cells: AnswerCells, example: Example) -> str:
        """The answer in a table's cells as rows write it; ``example`` lacks its own.

        Raises:
            DataError: the cells hold no answer to the example.
        """


def quote(text: str) -> str:
    """``text`` in quotation marks, shortened for a message."""
    return repr(text if len(text) <= 60 else text[:57] + "…")


def some(options: list[str], example: Example) -> list[str]:
    """``options``, of which there must be some.

    Raises:
        DataError: there are none.
    """
    if not options:
        raise DataError(
            f"row {example.id} has no options to choose from", cure="add its options"
        )
    return options


def input_object(example: Example) -> dict[str, Any]:
    """The input of an example as a JSON object.

    Raises:
        DataError: it is none.
    """
    try:
        value = json.loads(example.input)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise DataError(
            f"row {example.id}: its input is no JSON object", cure="correct the row"
        )
    return value


def confusion(
    classes: Sequence[str], labels: Sequence[str], answers: Sequence[str | None]
) -> dict[str, Any]:
    """``{"labels": […], "answers": […], "counts": [[…]]}``; the last answer is invalid."""
    counts = [[0] * (len(classes) + 1) for _ in classes]
    for label, answer in zip(labels, answers, strict=True):
        column = len(classes) if answer is None else classes.index(answer)
        counts[classes.index(label)][column] += 1
    return {"labels": list(classes), "answers": [*classes, INVALID], "counts": counts}
