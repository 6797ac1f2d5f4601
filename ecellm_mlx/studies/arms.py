"""The arms of the paper's studies: which rows each trains on and which it answers.

A study is made of sections, a section of arms that answer the same test rows; the first
arm of a section is what the others are compared with. Arms are written as ordinary
dataset folders. Everything follows from the rows and a seed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ecellm_mlx.data import holdout
from ecellm_mlx.data import rows as rows_module
from ecellm_mlx.data.holdout import Item
from ecellm_mlx.data.rows import DatasetFiles, Row
from ecellm_mlx.errors import DataError, UsageError
from ecellm_mlx.tasks.registry import TASKS

SEED = 0
SIZES = (1_000, 2_000, 5_000, 10_000, 20_000, 50_000)
BASE = "base"


@dataclass(frozen=True)
class Arm:
    """One adapter, or the base alone where ``train`` is empty.

    Attributes:
        name: what the report calls it.
        train, val: lines of its training and validation rows.
        tasks: which of the section's test rows it answers; all when empty.
    """

    name: str
    train: list[str] = field(default_factory=list)
    val: list[str] = field(default_factory=list)
    tasks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Section:
    """Arms that answer the same rows; ``test`` are their lines."""

    name: str
    title: str
    arms: list[Arm]
    test: list[str]


@dataclass(frozen=True)
class Options:
    """What a study may be told.

    Attributes:
        sizes: of ``scaling``; all rows come last by themselves.
        categories: of ``holdout``; all when empty.
        by: the field that is a row's category.
    """

    sizes: tuple[int, ...] = SIZES
    categories: tuple[str, ...] = ()
    by: str = holdout.CATEGORY


@dataclass(frozen=True)
class Data:
    """The rows of a dataset with what their lines hold."""

    path: Path
    train: list[Item]
    val: list[Item]
    test: list[Item]


def read(folder: Path, by: str) -> Data:
    """The three files of a dataset.

    Raises:
        DataError: there is no test file, or a file is wrong.
    """
    files: DatasetFiles = rows_module.dataset(folder)
    if files.test is None:
        raise DataError(
            f"{folder}: a study needs test rows", expected="test.jsonl beside train.jsonl"
        )
    return Data(
        folder,
        holdout.load(files.train, by),
        holdout.load(files.val, by) if files.val else [],
        holdout.load(files.test, by),
    )


def scaling(data: Data, options: Options) -> list[Section]:
    """From few rows to all: each set of rows holds the smaller ones.

    Raises:
        UsageError: no size is smaller than the number of rows.
    """
    total = len(data.train)
    sizes = sorted({size for size in options.sizes if size < total})
    if not sizes or sizes[0] < 1:
        raise UsageError(
            f"--size: there are {total} training rows",
            expected=f"at least one size from 1 to {total - 1}",
            got=", ".join(map(str, options.sizes)),
        )
    chosen = data.train
    arms: list[Arm] = []
    for size in reversed(sizes):
        # Drawn from the next larger set, so that sets are nested.
        chosen = _stratified(chosen, size)
        arms.insert(0, Arm(f"{size} rows", _lines(chosen), _lines(data.val)))
    arms.append(Arm(f"all {total} rows", _lines(data.train), _lines(data.val)))
    return [
        Section("scaling", "Number of training rows", [Arm(BASE), *arms], _lines(data.test))
    ]


def diversity(data: Data, options: Options) -> list[Section]:
    """The same questions under one instruction for each task, and under all.

    Raises:
        DataError: no task has more than one instruction.
    """
    del options
    most = {task: _most_frequent(items) for task, items in _by_task(data.train).items()}
    counts = {
        task: len({item.row.instruction for item in items})
        for task, items in _by_task(data.train).items()
    }
    if max(counts.values()) < 2:
        raise DataError(
            f"{data.path}: every task has one instruction only",
            expected="several, as rows of IND_Diverse_Instruction have",
        )

    def single(items: Sequence[Item]) -> list[str]:
        return [
            item.line(instruction=most[item.row.task])
            for item in items
            if item.row.task in most
        ]

    arms = [
        Arm("1 instruction", single(data.train), single(data.val)),
        Arm(f"{max(counts.values())} instructions", _lines(data.train), _lines(data.val)),
        Arm(BASE),
    ]
    return [Section("diversity", "Instructions for each task", arms, _lines(data.test))]


def leave_one_out(data: Data, options: Options) -> list[Section]:
    """For each category: without it, and with it under as many rows.

    Raises:
        DataError: no row has a category, or none can be left out.
    """
    known = holdout.categories(data.train)
    tested = holdout.categories(data.test)
    wanted = options.categories or tuple(
        name for name in known if name in tested and known[name] < len(data.train)
    )
    if not known or not wanted:
        raise DataError(
            f"{data.path}: no {options.by} can be left out",
            expected=f"training and test rows with several values of {options.by!r}",
            got=", ".join(known) or f"no row with a {options.by}",
            cure="name another field with --by, such as source",
        )
    sections = []
    for number, name in enumerate(wanted, 1):
        if name not in known or name not in tested:
            raise DataError(
                f"{data.path}: training and test rows need the {options.by} {name!r}",
                expected=f"one of {', '.join(n for n in known if n in tested)}",
            )
        without = [item for item in data.train if item.category != name]
        arms = [
            Arm(
                f"without {name}",
                _lines(without),
                _lines([item for item in data.val if item.category != name]),
            ),
            Arm(
                f"with {name}", _lines(_stratified(data.train, len(without))), _lines(data.val)
            ),
            Arm(BASE),
        ]
        test = [
            item.line(setting=holdout.held_out_setting(item.row.setting))
            for item in data.test
            if item.category == name
        ]
        sections.append(Section(f"holdout-{number}", f"{options.by}: {name}", arms, test))
    return sections


def generalist(data: Data, options: Options) -> list[Section]:
    """One adapter for all tasks against one for each.

    Raises:
        DataError: there is one task only.
    """
    del options
    by_task = _by_task(data.train)
    tested = {item.row.task for item in data.test}
    tasks = [task for task in TASKS if task in by_task and task in tested]
    if len(tasks) < 2:
        raise DataError(
            f"{data.path}: a generalist needs rows of several tasks",
            got=", ".join(tasks) or "none that training and test rows share",
        )
    arms = [Arm("generalist", _lines(data.train), _lines(data.val))]
    for task in tasks:
        val = [item for item in data.val if item.row.task == task]
        arms.append(
            Arm(f"only {TASKS[task].short}", _lines(by_task[task]), _lines(val), (task,))
        )
    test = [item for item in data.test if item.row.task in tasks]
    return [
        Section("generalist", "One for all or one for each", [*arms, Arm(BASE)], _lines(test))
    ]


STUDIES: dict[str, Callable[[Data, Options], list[Section]]] = {
    "scaling": scaling,
    "diversity": diversity,
    "holdout": leave_one_out,
    "generalist": generalist,
}


def _lines(items: Sequence[Item]) -> list[str]:
    return [item.line() for item in items]


def _by_task(items: Sequence[Item]) -> dict[str, list[Item]]:
    by_task: dict[str, list[Item]] = {}
    for item in items:
        by_task.setdefault(item.row.task, []).append(item)
    return by_task


def _most_frequent(items: Sequence[Item]) -> str:
    counts: dict[str, int] = {}
    for item in items:
        counts[item.row.instruction] = counts.get(item.row.instruction, 0) + 1
    return min(counts, key=lambda text: (-counts[text], text))


def _stratified(items: Sequence[Item], size: int) -> list[Item]:
    chosen: list[Row] = rows_module.stratified([item.row for item in items], size, SEED)
    kept = {row.id for row in chosen}
    return [item for item in items if item.row.id in kept]
