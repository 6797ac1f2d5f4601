"""Options of the catalog verbs, and how they become a question.

What was not said is taken from a mapping file, then guessed; a guess is shown and must be
confirmed.
"""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ecellm_mlx.cli import options
from ecellm_mlx.cli.output import emit_table, narrate
from ecellm_mlx.errors import UsageError

if TYPE_CHECKING:
    from ecellm_mlx.tables import Table
    from ecellm_mlx.tables.guess import Guess
    from ecellm_mlx.tasks.registry import Task

FORMATS = "A CSV, TSV, JSONL, Parquet or XLSX file."

TableFile = Annotated[Path, typer.Argument(help=FORMATS)]
TaskName = Annotated[
    str | None, typer.Option("--task", "-t", help="What to ask, unless you give own labels.")
]
Map = Annotated[
    list[str] | None,
    typer.Option("--map", help="field=column, or field=:text; repeatable. Guessed if absent."),
]
MappingFile = Annotated[
    Path | None, typer.Option("--mapping", help="A file that --save-mapping wrote.")
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Accept the guessed mapping.")]
Labels = Annotated[
    str | None,
    typer.Option(help="Own labels to choose from: a,b,c, a file, or column=NAME."),
]
Attributes = Annotated[
    str | None, typer.Option(help="Attributes to extract: a,b,c, or a file (task AVE).")
]
Name = Annotated[str | None, typer.Option(help="Result columns become ecellm_NAME.")]
Instruction = Annotated[str | None, typer.Option(help="Your own instruction.")]
MaxWords = Annotated[
    int | None, typer.Option(min=1, help="Cells are cut after this many words (200).")
]
EncodingName = Annotated[
    str | None, typer.Option("--encoding", help="Of a CSV, instead of what is detected.")
]
Delimiter = Annotated[
    str | None, typer.Option(help="Of a CSV, instead of what is detected; tab for \\t.")
]
Sheet = Annotated[str | None, typer.Option(help="Of a workbook (default: the first).")]

Resume = Annotated[
    bool, typer.Option("--resume", help="Continue, or compute only what changed.")
]
New = Annotated[bool, typer.Option("--new", help="Other settings: keep their answers apart.")]
PauseOnBattery = Annotated[
    float | None, typer.Option(help="Pause unplugged below this charge (percent).")
]
PauseOnMemory = Annotated[
    float | None, typer.Option(help="Pause below this much available memory (GB).")
]


@dataclass(frozen=True)
class Reading:
    """How a table is written down, where that is not detected."""

    encoding: EncodingName = None
    delimiter: Delimiter = None
    sheet: Sheet = None

    def open(self, path: Path) -> Table:
        """Open a table."""
        from ecellm_mlx.tables import open_table

        return open_table(path, **asdict(self))


@dataclass(frozen=True)
class Asked:
    """What is asked about every row."""

    task: TaskName = None
    mapping: Map = None
    mapping_file: MappingFile = None
    yes: Yes = False
    labels: Labels = None
    attributes: Attributes = None
    name: Name = None
    instruction: Instruction = None
    max_words: MaxWords = None


@dataclass(frozen=True)
class Work:
    """How a job works; the keyword arguments of every ``launch``."""

    batch_size: options.BatchSize = 16
    resume: Resume = False
    new: New = False
    pause_on_battery: PauseOnBattery = None
    pause_on_memory: PauseOnMemory = None


def question_of(table: Table, asked: Asked) -> dict[str, Any]:
    """Keyword arguments for ``question.build``, all gaps filled.

    Raises:
        UsageError: the mapping is a guess that nobody confirmed.
        DataError: a file of labels, attributes or a mapping cannot be read.
    """
    from ecellm_mlx.catalog import lists, saved
    from ecellm_mlx.data.question import DEFAULT_MAX_WORDS
    from ecellm_mlx.tables.guess import guess
    from ecellm_mlx.tasks.fields import TARGETS
    from ecellm_mlx.tasks.registry import find as find_task

    kept = saved.load(asked.mapping_file) if asked.mapping_file else saved.SavedQuestion()
    own_labels = lists.labels(asked.labels, table) if asked.labels else kept.labels
    own = asked.attributes
    attributes = lists.attributes(own) if own else kept.attributes
    # Labels of one's own are no task's; a file's task does not come back through them.
    task = asked.task or (None if asked.labels else kept.task) or None
    found = find_task(task) if task else None
    items = list(asked.mapping or kept.items)
    if attributes:
        items = [item for item in items if not item.startswith(f"{TARGETS}=")]
    if not items and (found or own_labels):
        constants = [TARGETS] if attributes else []
        items = _confirmed(table, guess(table, found, constants), found, asked.yes)
    return {
        "task": task,
        "mapping": items,
        "labels": own_labels,
        "attributes": attributes,
        "name": asked.name or kept.name or None,
        "instruction": asked.instruction or kept.instruction or None,
        "max_words": asked.max_words or kept.max_words or DEFAULT_MAX_WORDS,
    }


def _confirmed(table: Table, found: Guess, task: Task | None, yes: bool) -> list[str]:
    from ecellm_mlx.tasks.fields import TARGETS

    options = " ".join(f'--map "{item}"' for item in found.options())
    lacking = ", ".join(found.missing)
    if lacking:
        first = found.missing[0].partition(" or ")[0]  # of several, either will do
        cure = f'map them yourself: {options} --map "{first}=COLUMN"'
        if found.missing == (TARGETS,):
            cure = "name the attributes with --attributes"
        raise UsageError(
            f"no column of {table.path.name} looks like {lacking}"
            + (f" of {task.name}" if task else ""),
            got=", ".join(table.names),
            cure=" ".join(cure.split()),
        )
    if yes:
        narrate(f"mapping: {options}")
        return found.options()
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise UsageError(
            "no --map was given, and there is no terminal to confirm a guess",
            expected=options,
            cure="give these options, or accept them with --yes",
        )
    show_guess(found)
    if not typer.confirm("Use this mapping?", default=True, err=True):
        raise UsageError("the guessed mapping was declined", cure=f"map yourself: {options}")
    return found.options()


def narrate_facts(table: Table) -> None:
    """Say how a table is written down, in one line."""
    narrate(f"{table.path.name}: " + ", ".join(f"{k} {v}" for k, v in table.facts().items()))


def show_guess(found: Guess) -> None:
    """Print a guess as a table."""
    emit_table(
        "likeliest mapping",
        ["field", "column", "sure", "why", "example"],
        [
            [c.field, c.column, f"{c.score:.0%}", c.reason, c.example[:60]]
            for c in found.choices
        ],
    )


def save(path: Path, question: dict[str, Any]) -> None:
    """Keep a question for ``--mapping``."""
    from ecellm_mlx.catalog.saved import SavedQuestion
    from ecellm_mlx.catalog.saved import save as write

    fields = dict(item.split("=", 1) for item in question["mapping"])
    write(
        path,
        SavedQuestion(
            task=question["task"] or "",
            instruction=question["instruction"] or "",
            labels=list(question["labels"]),
            attributes=list(question["attributes"]),
            name=question["name"] or "",
            max_words=question["max_words"],
            map=fields,
        ),
    )
    narrate(f"saved the question to {path}")
