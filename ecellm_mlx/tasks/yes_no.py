"""Yes or no: two answers, scored as a binary classification of yes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ecellm_mlx.errors import DataError
from ecellm_mlx.tasks.kind import (
    AnswerCells,
    Constraint,
    Example,
    Kind,
    Predicted,
    confusion,
    quote,
)

if TYPE_CHECKING:
    from ecellm_mlx.tasks.tally import Tally

ANSWERS = ("yes", "no")
# What tables say instead.
YES = ("yes", "y", "true", "1", "match")
NO = ("no", "n", "false", "0", "no match")


@dataclass(frozen=True)
class YesNo(Kind):
    """Official metrics drop invalid answers; strict ones take the wrong one of the two."""

    name = "yes/no"
    constraint = Constraint.OPTIONS
    metrics = ("acc", "recall", "precision", "f1", "specificity", "npr")
    binary = True

    def check(self, example: Example) -> None:
        """Raise ``DataError`` unless the output is yes or no."""
        if example.output not in ANSWERS:
            raise DataError(
                "the output is no answer", got=quote(example.output), expected="yes or no"
            )

    def options(self, example: Example) -> list[str]:
        """Yes and no."""
        del example
        return list(ANSWERS)

    def parse(self, text: str) -> str | None:
        """``yes`` or ``no``, in any case."""
        return answer if (answer := text.strip().lower()) in ANSWERS else None

    def expected(self, example: Example) -> str:
        """The output."""
        return example.output

    def tally(self, predicted: Predicted, *, strict: bool) -> Tally:
        """(n, 4): true negative, false positive, false negative, true positive."""
        from ecellm_mlx.tasks.tally import Tally, rates

        counts = []
        for text, example in predicted.pairs:
            label, answer = example.output == "yes", self.parse(text)
            row = [0.0] * 4
            if answer is not None or strict:
                said = (not label) if answer is None else answer == "yes"
                row[2 * label + said] = 1.0
            counts.append(row)
        return Tally.of(counts, rates)

    def details(self, predicted: Predicted) -> dict[str, Any]:
        """The confusion matrix."""
        answers = [self.parse(text) for text in predicted.texts]
        labels = [example.output for example in predicted.examples]
        return {"confusion": confusion(ANSWERS, labels, answers)}

    def written(self, cells: AnswerCells, example: Example) -> str:
        """Yes or no, from the words that tables use."""
        del example
        word = cells.output.lower()
        if word not in (*YES, *NO):
            raise DataError(
                "the answer is no yes or no", got=quote(cells.output), expected="yes or no"
            )
        return "yes" if word in YES else "no"
