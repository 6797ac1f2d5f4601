"""Free text, scored by BERTScore against the expected text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ecellm_mlx.tasks.kind import AnswerCells, Constraint, Example, Kind, Predicted

if TYPE_CHECKING:
    from ecellm_mlx.tasks.tally import Tally

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

    def tally(self, predicted: Predicted, *, strict: bool) -> Tally | None:
        """(n, 4): precision, recall, F1, and one."""
        from ecellm_mlx.tasks.tally import Tally, means

        del strict
        if (scores := predicted.text_scores) is None:
            return None
        return Tally.of([[*row, 1.0] for row in scores.tolist()], means(*BERTSCORE))

    def not_computed(self, predicted: Predicted) -> str:
        """BLEURT never is."""
        return f"{NO_BERTSCORE}; {NO_BLEURT}" if predicted.text_scorer is None else NO_BLEURT

    def qualities(self, predicted: Predicted) -> list[float]:
        """BERTScore's F1, or else whether there is an answer."""
        if (scores := predicted.text_scores) is None:
            return [float(bool(text.strip())) for text in predicted.texts]
        return [float(f1) for f1 in scores[:, 2]]

    def details(self, predicted: Predicted) -> dict[str, Any]:
        """BERTScore of each row by its id: precision, recall and F1."""
        if (scores := predicted.text_scores) is None:
            return {}
        return {
            "bertscore": {
                example.id: values
                for example, values in zip(
                    predicted.examples, scores.round(6).tolist(), strict=True
                )
            }
        }

    def written(self, cells: AnswerCells, example: Example) -> str:
        """The cell as it is."""
        del example
        return cells.output
