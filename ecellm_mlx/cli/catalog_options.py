"""How what a user says of a table becomes a question.

What was not said is taken from a mapping file, then guessed; a guess is shown and must be
confirmed.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ecellm_mlx.catalog.settings import Asked
from ecellm_mlx.cli.output import emit_table, narrate
from ecellm_mlx.errors import UsageError

if TYPE_CHECKING:
    from ecellm_mlx.catalog.saved import SavedQuestion
    from ecellm_mlx.data.question import Question
    from ecellm_mlx.tables import Table
    from ecellm_mlx.tables.guess import Guess
    from ecellm_mlx.tasks.registry import Task

FORMATS = "A CSV, TSV, JSONL, Parquet or XLSX file."

TableFile = Annotated[Path, typer.Argument(help=FORMATS)]
TaskName = Annotated[
    str | None, typer.Option("--task", "-t", help="What to ask, unless you give own labels.")
]


def question_of(table: Table, asked: Asked) -> tuple[Question, SavedQuestion]:
    """What is asked, all gaps filled; the same to be saved.

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
    labels = lists.labels(asked.labels, table) if asked.labels else kept.labels
    own = asked.attributes
    attributes = lists.attributes(own) if own else kept.attributes
    # Labels of one's own are no task's; a file's task does not come back through them.
    name = asked.task or (None if asked.labels else kept.task) or None
    task = find_task(name) if name else None
    items = list(asked.mapping or kept.items)
    if attributes:
        items = [item for item in items if not item.startswith(f"{TARGETS}=")]
    if not items and (task or labels):
        constants = [TARGETS] if attributes else []
        items = _confirmed(table, guess(table, task, constants), task, asked.yes)
    said = saved.SavedQuestion(
        task=name or "",
        instruction=asked.instruction or kept.instruction,
        labels=labels,
        attributes=attributes,
        name=asked.name or kept.name,
        max_words=asked.max_words or kept.max_words or DEFAULT_MAX_WORDS,
    )
    question = said.question(table.names, items)
    return question, replace(said, map=dict(item.split("=", 1) for item in items))


def _confirmed(table: Table, guess: Guess, task: Task | None, yes: bool) -> list[str]:
    from ecellm_mlx.tasks.fields import TARGETS

    options = " ".join(f'--map "{item}"' for item in guess.options())
    lacking = ", ".join(guess.missing)
    if lacking:
        first = guess.missing[0].partition(" or ")[0]  # of several, either will do
        cure = f'map them yourself: {options} --map "{first}=COLUMN"'
        if guess.missing == (TARGETS,):
            cure = "name the attributes with --attributes"
        raise UsageError(
            f"no column of {table.path.name} looks like {lacking}"
            + (f" of {task.name}" if task else ""),
            got=", ".join(table.names),
            cure=" ".join(cure.split()),
        )
    if yes:
        narrate(f"mapping: {options}")
        return guess.options()
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise UsageError(
            "no --map was given, and there is no terminal to confirm a guess",
            expected=options,
            cure="give these options, or accept them with --yes",
        )
    show_guess(guess)
    if not typer.confirm("Use this mapping?", default=True, err=True):
        raise UsageError("the guessed mapping was declined", cure=f"map yourself: {options}")
    return guess.options()


def narrate_facts(table: Table) -> None:
    """Say how a table is written down, in one line."""
    narrate(f"{table.path.name}: " + ", ".join(f"{k} {v}" for k, v in table.facts().items()))


def show_guess(guess: Guess) -> None:
    """Print a guess as a table."""
    emit_table(
        "likeliest mapping",
        ["field", "column", "sure", "why", "example"],
        [
            [c.field, c.column, f"{c.score:.0%}", c.reason, c.example[:60]]
            for c in guess.choices
        ],
    )
