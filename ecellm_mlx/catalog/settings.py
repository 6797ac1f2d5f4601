"""The settings of catalog jobs, declared once.

The options of ``ecellm catalog``, the Catalog screen, the tables in ``docs/catalog.md`` and
``job.json`` derive from them. Loads no mlx.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from ecellm_mlx import settings
from ecellm_mlx.data.question import DEFAULT_MAX_WORDS, Question
from ecellm_mlx.data.rows import digest
from ecellm_mlx.models.adapter_files import WEIGHTS_FILE
from ecellm_mlx.settings import option
from ecellm_mlx.tasks.values import Values

if TYPE_CHECKING:
    from ecellm_mlx.tables import Table


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How a table is written down, where that is not detected."""

    encoding: str | None = option(None, "of a CSV, instead of what is detected")
    delimiter: str | None = option(None, "of a CSV, instead of what is detected; tab for \\t")
    quote: str | None = option(
        None,
        "how cells of a CSV are quoted, instead of what is detected: double, backslash, "
        "single or none",
    )
    sheet: str | None = option(None, "of a workbook, instead of the first")
    header_row: int | None = option(
        None, "the line or row of the titles, instead of what is detected", at_least=1
    )

    def open(self, path: Path) -> Table:
        """Open a table.

        Raises:
            DataError, UsageError: see ``tables.open_table``.
        """
        from ecellm_mlx.tables import open_table

        return open_table(path, **settings.to_json(self))


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What is asked about every row, as a user says it."""

    task: str | None = option(
        None, "what to ask, unless you give own labels", "--task", "-t", example="AVE"
    )
    mapping: tuple[str, ...] = option(
        (),
        "field=column, or field=:text that is the same in every row; guessed if absent",
        "--map",
        example='"product title=name"',
    )
    mapping_file: Path | None = option(None, "a file that --save-mapping wrote", "--mapping")
    yes: bool = option(False, "accept the guessed mapping", "--yes", "-y")
    labels: str | None = option(
        None, "own labels to choose from: a,b,c, a file, or column=NAME"
    )
    attributes: str | None = option(None, "attributes to extract: a,b,c, or a file (task AVE)")
    name: str | None = option(None, "result columns become ecellm_NAME")
    instruction: str | None = option(None, "your own instruction")
    max_words: int | None = option(
        None,
        f"cells are cut after this many words; {DEFAULT_MAX_WORDS} if not given",
        at_least=1,
    )


@dataclass(frozen=True, kw_only=True)
class JobSettings:
    """How a job answers a table, as a user gives it or, ``resolved``, as it is kept.

    ``values`` and ``model_name`` are no options of every job: see ``CatalogSettings``, and
    ``resolved``.

    Raises:
        UsageError: values that are unknown or out of bounds, all of them together.
    """

    model: str | None = option(None, "registry name or folder", "--model", "-m")
    adapter: str | None = option(None, "adapter folder or run", "--adapter", "-a")
    out: Path = option(MISSING, "the table to write")
    values: Values = Values.FREE
    batch_size: int = option(16, "rows computed at once", at_least=1)
    resume: bool = option(False, "continue, or compute only what changed", kept=False)
    new: bool = option(False, "other settings: keep their answers apart")
    pause_on_battery: float | None = option(
        None, "pause unplugged below this charge (percent)", at_least=0
    )
    pause_on_memory: float | None = option(
        None, "pause below this much available memory (GB)", at_least=0
    )
    model_name: str | None = None  # what the user called the model

    def __post_init__(self) -> None:
        settings.check(self)

    def resolved(self) -> Self:
        """With whole paths, as ``job.json`` keeps them.

        Raises:
            ModelError, AdapterError: what is named is not there.
        """
        from ecellm_mlx.models import adapter_files, registry

        return replace(
            self,
            model=str(registry.resolve(self.model).absolute()) if self.model else None,
            model_name=self.model,
            adapter=str(adapter_files.folder_of(self.adapter)) if self.adapter else None,
            out=self.out.absolute(),
        )


@dataclass(frozen=True, kw_only=True)
class CatalogSettings(JobSettings):
    """How ``ecellm catalog run`` answers a table."""

    model: str = option(MISSING, "registry name or folder", "--model", "-m")
    values: Values = option(
        Values.SOURCE, "attribute values: words of the text only, or what the model writes"
    )
    review_below: float | None = option(
        None,
        "rows that are answered with less confidence go to a review file, too",
        noun="confidence",
        above=0,
        at_most=1,
    )
    normalise: bool = option(
        False,
        "beside each attribute's value one spelling of it: 1500 watt becomes 1.5 kW, Rot red",
    )
    strict: bool = option(False, "refuse a table with rows that cannot be read", kept=False)


@dataclass(frozen=True, kw_only=True)
class AnswerJob:
    """A question and how it is answered: what ``job.json`` holds of any catalog job."""

    question: Question
    settings: JobSettings

    def identity(self, base: str) -> dict[str, Any]:
        """What answers depend on beside the row, by the name of the option that changes it.

        Args:
            base: fingerprint of the model.
        """
        question, adapter = self.question, self.settings.adapter
        return {
            "task": question.task_name,
            "mapping": [
                sorted(question.columns.items()),
                sorted(question.constants.items()),
            ],
            "instruction": question.instruction,
            "labels": list(question.labels),
            "max-words": question.max_words,
            "values": str(self.settings.values),
            "model": base,
            "adapter": digest([Path(adapter) / WEIGHTS_FILE]) if adapter else None,
        }

    def to_json(self) -> dict[str, Any]:
        """As ``job.json`` has it."""
        return {
            **settings.to_json(self.settings),
            "question": self.question.to_dict(),
            "task": self.question.task_name,
        }


@dataclass(frozen=True, kw_only=True)
class CatalogJob(AnswerJob):
    """All that a job of ``ecellm catalog run`` is told."""

    table: Path
    reading: Reading
    settings: CatalogSettings

    def to_json(self) -> dict[str, Any]:
        """As ``job.json`` has it."""
        own = {"table": str(self.table), "reading": settings.to_json(self.reading)}
        return {**own, **super().to_json()}

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> CatalogJob:
        """The inverse of ``to_json``.

        Raises:
            KeyError: something is missing.
        """
        return CatalogJob(
            table=Path(value["table"]),
            reading=settings.from_json(Reading, value["reading"]),
            question=Question.from_dict(value["question"]),
            settings=settings.from_json(CatalogSettings, value),
        )
