"""Leave one category out: training rows without it, test rows of it.

A row's category is the value of its field ``category``; if it has none, the entry of that
name in its input, where that is a JSON object. Rows of ECInstruct have neither, so another
field may stand for it (``by``): ``source`` in our sample, ``task``, or an input field such
as ``product brand``. Upstream's own OOD rows were made so, by product category.

Fields of a row that we do not know are carried along; ids are written down, so that they
stay what they were in the original file.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ecellm_mlx.data import rows as rows_module
from ecellm_mlx.data.json_items import items
from ecellm_mlx.data.rows import Row
from ecellm_mlx.errors import DataError
from ecellm_mlx.files import ensure_folder, write_atomic

CATEGORY = "category"
SHOWN = 12


@dataclass(frozen=True)
class Item:
    """A row with all that its line holds, and its category (None if it has none)."""

    row: Row
    value: dict[str, Any]
    category: str | None

    def line(self, **changes: Any) -> str:
        """The row as a line, with ``changes``."""
        return (
            json.dumps({**self.value, "id": self.row.id, **changes}, ensure_ascii=False) + "\n"
        )


@dataclass(frozen=True)
class Split:
    """How many rows went where."""

    folder: Path
    train: int
    val: int
    test_kept: int
    test_held_out: int
    left_out: int


def load(path: Path, by: str = CATEGORY) -> list[Item]:
    """The rows of a file with their categories.

    Raises:
        DataError: as ``rows.load``.
    """
    loaded = rows_module.load(path)
    values = [value for _, value in items(path)]
    return [
        Item(row, value, category_of(value, by))
        for row, value in zip(loaded, values, strict=True)
    ]


def category_of(value: dict[str, Any], by: str = CATEGORY) -> str | None:
    """The category of a row: its field ``by``, else that of its input."""
    category = value.get(by)
    if category is None:
        try:
            inner = json.loads(value["input"])
        except ValueError:
            return None
        category = inner.get(by) if isinstance(inner, dict) else None
    return category if isinstance(category, str) and category else None


def categories(members: Iterable[Item]) -> dict[str, int]:
    """Rows by category, the largest first; rows without one are left out."""
    counts = Counter(item.category for item in members if item.category is not None)
    return dict(sorted(counts.items(), key=lambda entry: (-entry[1], entry[0])))


def split(path: Path, category: str, out: Path, *, by: str = CATEGORY) -> Split:
    """Write a dataset that leaves a category out of training.

    ``out`` gets ``train.jsonl`` and ``val.jsonl`` without the category; ``test.jsonl`` with
    all test rows, where those of the category have OOD settings; and ``left_out.jsonl``
    with the category's training rows, which nothing uses. A single file instead of a
    folder gives all rows of the category to the test.

    Raises:
        DataError: no row has the category, or all have it, or nothing is left to test.
    """
    if path.is_dir():
        files = rows_module.dataset(path)
        train = load(files.train, by)
        val = load(files.val, by) if files.val else []
        test = load(files.test, by) if files.test else []
        tested = [item for item in test if item.category == category]
    else:
        train, val, test = load(path, by), [], []
        tested = [item for item in train if item.category == category]
    _check(path, category, by, [*train, *val, *test], train)
    if not tested:
        raise DataError(
            f"{path}: no test row has the {by} {category!r}",
            cure="choose a category that the test rows have",
        )
    held = {item.row.id for item in tested}
    left = [i for i in (*train, *val) if i.category == category and i.row.id not in held]
    parts = {
        "train": [i.line() for i in train if i.category != category],
        "val": [i.line() for i in val if i.category != category],
        "test": [
            *(i.line() for i in test if i.category != category),
            *(i.line(setting=held_out_setting(i.row.setting)) for i in tested),
        ],
        "left_out": [i.line() for i in left],
    }
    ensure_folder(out)
    if any(out.iterdir()):
        raise DataError(f"{out} is not empty", cure="give another folder with --out")
    for name, lines in parts.items():
        if lines:
            write_atomic(out / f"{name}.jsonl", "".join(lines))
    return Split(
        folder=out,
        train=len(parts["train"]),
        val=len(parts["val"]),
        test_kept=len(parts["test"]) - len(tested),
        test_held_out=len(tested),
        left_out=len(left),
    )


def held_out_setting(setting: str) -> str:
    """The OOD setting that belongs to a setting."""
    return "OOD_" + setting.removeprefix("IND_").removeprefix("OOD_")


def _check(
    path: Path, category: str, by: str, members: Sequence[Item], train: Sequence[Item]
) -> None:
    known = categories(members)
    if not known:
        fields = sorted({key for item in members for key in item.value if key != "id"})
        raise DataError(
            f"{path}: no row has a {by}",
            expected=f"a field {by!r} in rows or in their inputs",
            got=", ".join(fields),
            cure="name another field with --by, such as source",
        )
    if category not in known:
        some = ", ".join(f"{name} ({n})" for name, n in list(known.items())[:SHOWN])
        more = f" and {len(known) - SHOWN} more" if len(known) > SHOWN else ""
        raise DataError(
            f"{path}: no row has the {by} {category!r}", expected=f"one of {some}{more}"
        )
    if all(item.category == category for item in train):
        raise DataError(
            f"{path}: every training row has the {by} {category!r}",
            cure="choose a smaller category",
        )
