"""An order of lettered products, scored by NDCG against judgments of each product."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from ecellm_mlx.errors import DataError
from ecellm_mlx.tasks.fields import LABELS, OUTPUT, lettered
from ecellm_mlx.tasks.kind import (
    AnswerCells,
    Constraint,
    Example,
    Kind,
    Predicted,
    input_object,
    quote,
    some,
)

if TYPE_CHECKING:
    from ecellm_mlx.tasks.tally import Tally

# Exact, substitute, complement, irrelevant, and what each is worth.
GAINS = {"E": 1.0, "S": 0.1, "C": 0.01, "I": 0.0}
JUDGMENTS = tuple(GAINS)
EPSILON = 1e-6  # the published evaluator's


class Scores(NamedTuple):
    """NDCG of one ranking, both ways, and how many of its parts are no option."""

    official: float
    strict: float
    invalid: int


@dataclass(frozen=True)
class Ranking(Kind):
    """Official NDCG takes its ideal from what an answer names and skips invalid parts.

    Strict NDCG takes it from all judged products; an invalid or repeated part keeps its
    rank and gains nothing. Invalid are the parts between commas that are no option.

    Attributes:
        field: the field of the input that lists the products.
    """

    field: str

    name = "ranking"
    constraint = Constraint.ORDER
    metrics = ("NDCG",)
    judged = True
    answer_columns = (OUTPUT, LABELS)

    def check(self, example: Example) -> None:
        """Raise ``DataError`` unless the output is an order, and labels judge all of it."""
        letters = example.output.split(",")
        if sorted(letters) != [chr(ord("A") + n) for n in range(len(letters))]:
            raise DataError(
                "the output is no ranking",
                got=quote(example.output),
                expected="each letter from A on once, separated by commas, such as B,A,C",
            )
        if example.labels is not None:
            check_judgments(example.labels, example.output)

    def doubts(self, examples: Sequence[Example]) -> Iterator[tuple[int, DataError]]:
        """Examples without labels, told once."""
        unjudged = [n for n, example in enumerate(examples) if example.labels is None]
        if unjudged:
            yield (
                unjudged[0],
                DataError(
                    f"{len(unjudged)} ranking rows have no 'labels', so that NDCG cannot be "
                    "computed"
                ),
            )

    def arranged(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Products get letters."""
        return {**values, self.field: lettered(values[self.field])}

    def options(self, example: Example) -> list[str]:
        """The letters of the products (``A: …`` items of the input)."""
        products = input_object(example).get(self.field, [])
        if isinstance(products, dict):
            return some(list(products), example)
        return some([str(item).split(":", 1)[0].strip() for item in products], example)

    def parse(self, text: str) -> list[str] | None:
        """The first character of each comma part that starts with a capital letter."""
        letters = [part[0] for part in text.strip().split(",") if "A" <= part[:1] <= "Z"]
        return letters or None

    def invalid(self, text: str, example: Example) -> int:
        """Parts that are no option."""
        return scores(text, example).invalid

    def tally(self, predicted: Predicted, *, strict: bool) -> Tally | None:
        """(n, 2): NDCG, and one."""
        from ecellm_mlx.tasks.tally import Tally, means

        if any(example.labels is None for example in predicted.examples):
            return None
        each = [scores(text, example) for text, example in predicted.pairs]
        counts = [[one.strict if strict else one.official, 1.0] for one in each]
        return Tally.of(counts, means(*self.metrics))

    def not_computed(self, predicted: Predicted) -> str:
        """Examples without labels."""
        labels = [example.labels for example in predicted.examples]
        if not (unjudged := labels.count(None)):
            return ""
        return (
            f"{unjudged} of {len(labels)} rows have no labels (E, S, C, I); `ecellm data pull "
            "--labels label.json` takes those of the paper"
        )

    def qualities(self, predicted: Predicted) -> list[float]:
        """Strict NDCG; what cannot be judged passes as good."""
        return [
            scores(text, example).strict if example.labels else 1.0
            for text, example in predicted.pairs
        ]

    def written(self, cells: AnswerCells, example: Example) -> str:
        """The order in the cell, or the one that the judgments make."""
        del example
        if cells.output or not cells.labels:
            return ",".join(part.strip().upper() for part in cells.output.split(","))
        if unknown := [label for label in cells.labels if label not in JUDGMENTS]:
            raise DataError(
                "a label is unknown", got=quote(unknown[0]), expected="E, S, C or I"
            )
        order = sorted(range(len(cells.labels)), key=lambda n: JUDGMENTS.index(cells.labels[n]))
        return ",".join(chr(ord("A") + n) for n in order)


def check_judgments(labels: Any, output: str) -> None:
    """Raise ``DataError`` unless ``labels`` judges each product that ``output`` ranks."""
    count = output.count(",") + 1
    if not isinstance(labels, list) or any(label not in JUDGMENTS for label in labels):
        raise DataError(
            "field 'labels' is of the wrong type",
            got=quote(json.dumps(labels)),
            expected="a list of E, S, C and I",
        )
    if len(labels) != count:
        raise DataError(
            "field 'labels' is of the wrong length",
            got=f"{len(labels)} labels",
            expected=f"{count}, one for each ranked product",
        )


def scores(text: str, example: Example) -> Scores:
    """NDCG of one answer; without ``labels`` only ``invalid`` has a meaning."""
    from ecellm_mlx.tasks.tally import dcg

    judged = example.labels or ["I"] * len(example.output.split(","))
    judgment = {chr(ord("A") + n): label for n, label in enumerate(judged)}
    parts = [part[:1] for part in text.strip().split(",")]
    named = [GAINS[judgment[part]] for part in parts if part in judgment]
    ranked = [
        GAINS[judgment[part]] if part in judgment and part not in parts[:rank] else 0.0
        for rank, part in enumerate(parts)
    ]
    ideal = sorted((GAINS[label] for label in judged), reverse=True)
    return Scores(
        dcg(named) / (dcg(sorted(named, reverse=True)) + EPSILON),
        dcg(ranked) / (dcg(ideal) + EPSILON),
        sum(part not in judgment for part in parts),
    )
