"""The settings of matching two catalogs, declared once; see ``catalog.settings``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, dataclass
from pathlib import Path
from typing import Any

from ecellm_mlx import settings
from ecellm_mlx.catalog.settings import AnswerJob, JobSettings
from ecellm_mlx.data.question import Question
from ecellm_mlx.errors import UsageError
from ecellm_mlx.settings import option

PARTS = "title=column, also description, manufacturer, price; guessed if absent"


@dataclass(frozen=True, kw_only=True)
class Sides:
    """Which columns of two catalogs are compared, and how many candidates are proposed.

    Raises:
        UsageError: values that are out of bounds, all of them together.
    """

    left_map: tuple[str, ...] = option((), PARTS, example="title=name", kept=False)
    right_map: tuple[str, ...] = option(
        (), "the same for RIGHT", example="title=name", kept=False
    )
    top: int = option(5, "candidates for each left product", at_least=1)

    def __post_init__(self) -> None:
        settings.check(self)


@dataclass(frozen=True, kw_only=True)
class MatchSettings(Sides, JobSettings):
    """How ``ecellm catalog match`` decides."""

    model: str | None = option(
        None, "registry name or folder; words and prices decide without", "--model", "-m"
    )
    out: Path = option(MISSING, "the table of matches to write")
    truth: Path | None = option(
        None, "known matches (left id, right id) to weigh words, prices and model by"
    )
    threshold: float | None = option(
        None,
        "least probability of a match; 0.5 if not given, or the best for --truth",
        noun="probability",
        at_least=0,
        at_most=1,
    )
    one_to_one: bool = option(False, "use each product once at most")
    review_band: tuple[float, float] | None = option(
        None,
        "pairs with a probability in between go to a review file, too",
        noun="probability",
        at_least=0,
        at_most=1,
        example="0.3,0.7",
    )
    instruction: str | None = option(None, "your own instruction", kept=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.model is None and (self.truth is None or self.adapter):
            raise UsageError(
                "there is nothing to judge pairs by: no --model was given",
                cure="give a --model, or known matches with --truth to match by words and "
                "prices",
            )


@dataclass(frozen=True, kw_only=True)
class PairSettings(Sides):
    """How ``ecellm catalog pairs`` divides known matches."""

    negatives: int = option(2, "near misses for each known left product", at_least=1)
    hold: float = option(0.3, "share of known products kept aside for match --truth")
    val: float = option(0.1, "share of the others for validation")
    instruction: str | None = option(None, "your own instruction")
    seed: int = option(42, "of the division")


@dataclass(frozen=True, kw_only=True)
class MatchJob(AnswerJob):
    """All that a job of ``ecellm catalog match`` is told; columns by part of a product."""

    left: Path
    right: Path
    left_columns: dict[str, str]
    right_columns: dict[str, str]
    settings: MatchSettings

    def to_json(self) -> dict[str, Any]:
        """As ``job.json`` has it."""
        return {
            "left": str(self.left),
            "right": str(self.right),
            "left_columns": self.left_columns,
            "right_columns": self.right_columns,
            **super().to_json(),
        }

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> MatchJob:
        """The inverse of ``to_json``.

        Raises:
            KeyError: something is missing.
        """
        return MatchJob(
            left=Path(value["left"]),
            right=Path(value["right"]),
            left_columns=dict(value["left_columns"]),
            right_columns=dict(value["right_columns"]),
            question=Question.from_dict(value["question"]),
            settings=settings.from_json(MatchSettings, value),
        )
