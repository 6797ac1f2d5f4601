"""One of several options: classes that are the same for all rows, or options of each row."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from ecellm_mlx.errors import DataError
from ecellm_mlx.tasks.kind import (
    AnswerCells,
    Constraint,
    Example,
    Kind,
    Predicted,
    confusion,
    quote,
    some,
)

if TYPE_CHECKING:
    from ecellm_mlx.tasks.tally import Tally


@dataclass(frozen=True)
class Choice(Kind):
    """Macro averages over classes, which are the options' letters.

    Official metrics drop invalid answers, strict ones count them as misses of their
    row's class.

    Attributes:
        letters: what the published evaluator accepts.
        in_full: whether an answer is the whole option (``B: positive``), not its letter.
        published: the options of the published rows, if they are the same for all.
    """

    letters: str
    in_full: bool = False
    published: tuple[str, ...] = ()

    name = "choice"
    constraint = Constraint.OPTIONS
    metrics: ClassVar[tuple[str, ...]] = ("acc", "recall", "precision", "f1")
    takes_options = True

    @property
    def default_options(self) -> tuple[str, ...]:
        """The published options."""
        return self.published

    def check(self, example: Example) -> None:
        """Raise ``DataError`` unless the output is one of the options."""
        if example.options is None:
            raise DataError(
                "field 'options' is missing", expected="a list of what can be chosen"
            )
        try:
            options = example.option_list
        except ValueError as error:
            raise DataError(
                "the options cannot be read",
                got=str(error),
                expected="a JSON list of texts as one string",
            ) from None
        allowed = options if self.in_full else [option[0] for option in options]
        if example.output not in allowed:
            raise DataError(
                "the output is none of the options",
                got=quote(example.output),
                expected="one of " + ", ".join(quote(option) for option in allowed),
            )

    def options(self, example: Example) -> list[str]:
        """The options, or their letters."""
        options = example.option_list
        return some(options if self.in_full else [o.split(":", 1)[0] for o in options], example)

    def parse(self, text: str) -> str | None:
        """The letter that the answer begins with."""
        return self._letter(text.strip()[:1])

    def _letter(self, text: str) -> str | None:
        return text if len(text) == 1 and text in self.letters else None

    def expected(self, example: Example) -> str:
        """The letter of the output."""
        return example.output[0]

    def tally(self, predicted: Predicted, *, strict: bool) -> Tally:
        """(n, C · (C + 1)): a confusion matrix a row; the last answer is an invalid one."""
        from ecellm_mlx.tasks.tally import Tally, macro_averages

        pairs = self._letters(predicted)
        counted = [pair for pair in pairs if strict or pair[1] is not None]
        classes = sorted({letter for pair in counted for letter in pair if letter})
        place = {letter: n for n, letter in enumerate([*classes, None])}
        counts = []
        for label, answer in pairs:
            row = [0.0] * (len(classes) * len(place))
            if strict or answer is not None:
                row[place[label] * len(place) + place[answer]] = 1.0
            counts.append(row)
        return Tally.of(counts, macro_averages(len(classes)))

    def _letters(self, predicted: Predicted) -> list[tuple[str, str | None]]:
        """The expected letter and the answered one."""
        return [(self.expected(example), self.parse(text)) for text, example in predicted.pairs]

    def details(self, predicted: Predicted) -> dict[str, Any]:
        """The confusion matrix."""
        pairs = self._letters(predicted)
        classes = sorted({letter for pair in pairs for letter in pair if letter})
        labels, answers = [label for label, _ in pairs], [answer for _, answer in pairs]
        return {"confusion": confusion(classes, labels, answers)}

    def written(self, cells: AnswerCells, example: Example) -> str:
        """The option that a cell means: its letter, its text, or both."""
        wanted = cells.output.strip().casefold()
        for option in example.option_list:
            letter, _, content = option.partition(": ")
            if wanted in (letter.casefold(), content.casefold(), option.casefold()):
                return option if self.in_full else letter
        raise DataError(
            "the answer is none of the options",
            got=quote(cells.output),
            expected="one of " + ", ".join(quote(option) for option in example.option_list),
        )


@dataclass(frozen=True)
class Recommendation(Choice):
    """Options differ from row to row, so that letters are no classes: hits are counted.

    The published evaluator takes the bare letter only. Official metrics drop invalid
    answers, strict ones count them as misses.
    """

    metrics: ClassVar[tuple[str, ...]] = ("recall@1",)

    def parse(self, text: str) -> str | None:
        """The letter that the answer is."""
        return self._letter(text.strip())

    def tally(self, predicted: Predicted, *, strict: bool) -> Tally:
        """(n, 2): hit, and whether the row counts."""
        from ecellm_mlx.tasks.tally import Tally, means

        return Tally.of(
            [
                [float(answer == label), float(strict or answer is not None)]
                for label, answer in self._letters(predicted)
            ],
            means(*self.metrics),
        )

    def details(self, predicted: Predicted) -> dict[str, Any]:
        """None: there are no classes to confuse."""
        del predicted
        return {}
