"""Free text, scored by BERTScore against the expected text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ecellm_mlx.tasks.kind import AnswerCells, Constraint, Example, Kind

if TYPE_CHECKING:
    from ecellm_mlx.tasks.tally import Tally, TextScorer

BERTSCORE = ("bertscore_precision", "bertscore_recall", "bertscore_f1")
NO_BERTSCORE = "BERTScore is not computed: it needs a model of its own, which --bertscore names"
NO_BLEURT = "BLEURT is not computed: its PyTorch port does not load with transformers 5"


@dataclass(frozen=True)
class Text(Kind):
    """Official and strict metrics are the same: an empty answer is scored as it is."""

    name = "text"
    constraint = Constraint.NONE
    metrics = (*BERTSCORE, "bleurt")

    def parse(self, text: str) -> str | None:
        """The stripped text."""
        return text.strip() or None

    def tally(
        self,
        predictions: Sequence[str],
        examples: Sequence[Example],
        *,
        strict: bool,
        text_scorer: TextScorer | None = None,
    ) -> Tally | None:
        """(n, 4): precision, recall, F1, and one."""
        from ecellm_mlx.tasks.tally import Tally, means

        del strict
        if text_scorer is None:
            return None
        scores = text_scorer(list(predictions), [example.output for example in examples])
        return Tally.of([[*row, 1.0] for row in scores.tolist()], means(*BERTSCORE))

    def not_computed(
        self, examples: Sequence[Example], text_scorer: TextScorer | None = None
    ) -> str:
        """BLEURT never is."""
        del examples
        return f"{NO_BERTSCORE}; {NO_BLEURT}" if text_scorer is None else NO_BLEURT

    def qualities(
        self,
        predictions: Sequence[str],
        examples: Sequence[Example],
        text_scorer: TextScorer | None = None,
    ) -> list[float]:
        """BERTScore's F1, or else whether there is an answer."""
        if text_scorer is None:
            return [float(bool(text.strip())) for text in predictions]
        scores = text_scorer(list(predictions), [example.output for example in examples])
        return [float(f1) for f1 in scores[:, 2]]

    def details(
        self,
        predictions: Sequence[str],
        examples: Sequence[Example],
        text_scorer: TextScorer | None = None,
    ) -> dict[str, Any]:
        """BERTScore of each row by its id: precision, recall and F1."""
        if text_scorer is None:
            return {}
        scores = text_scorer(list(predictions), [example.output for example in examples])
        return {
            "bertscore": {
                example.id: values
                for example, values in zip(examples, scores.round(6).tolist(), strict=True)
            }
        }

    def written(self, cells: AnswerCells, example: Example) -> str:
        """The cell as it is."""
        del example
        return cells.output
