"""Own closed lists: labels to choose from, attributes to look for.

Written on the command line (``a,b,c``), in a file with one on each line, or, for labels,
as the different values of a column (``column=category``).
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from ecellm_mlx.errors import DataError, UsageError
from ecellm_mlx.tables import Table

MAX_LABELS = 1000


def labels(text: str, table: Table) -> list[str]:
    """The labels that ``--labels`` names.

    Raises:
        UsageError: fewer than two.
        DataError: the file cannot be read, or there are more than ``MAX_LABELS``.
    """
    if text.startswith("column="):
        names = _values(text.removeprefix("column="), table)
    else:
        names = _entries(text, "--labels")
    if len(names) < 2:
        raise UsageError(
            f"--labels {text} gives nothing to choose from",
            got=", ".join(names) or "no label",
            expected="two labels or more: a,b,c, a file with one on each line, or column=NAME",
        )
    return names


def attributes(text: str) -> list[str]:
    """The attributes that ``--attributes`` names.

    Raises:
        UsageError: there is none, or one could not be told from two.
    """
    names = _entries(text, "--attributes")
    joined = [name for name in names if " and " in f" {name.lower()} "]
    if joined:
        raise UsageError(
            f"--attributes: {joined[0]!r} reads like two attributes",
            cure="name it without 'and'",
        )
    if not names:
        raise UsageError("--attributes names none", expected="such as Brand,Color")
    return names


def _entries(text: str, option: str) -> list[str]:
    path = Path(text)
    is_file = path.is_file()
    if not is_file and ("/" in text or path.suffix in (".txt", ".csv")) and "," not in text:
        raise DataError(f"{option} {text}: there is no such file", cure="check the path")
    if is_file:
        try:
            lines: Iterable[str] = path.read_text(encoding="utf-8-sig").splitlines()
        except UnicodeDecodeError:
            raise DataError(
                f"{option} {text} is not UTF-8", cure="save it as UTF-8, one entry on each line"
            ) from None
    else:
        lines = text.split(",")
    return _different(lines)


def _values(column: str, table: Table) -> list[str]:
    if column not in table.names:
        raise UsageError(
            f"--labels: the table has no column {column!r}",
            expected=f"one of {', '.join(table.names)}",
        )
    place = table.names.index(column)
    values: dict[str, None] = {}
    for row in table.good_rows():
        if text := " ".join(row.cells[place].split()):
            values[text] = None
        if len(values) > MAX_LABELS:
            raise DataError(
                f"column {column!r} has more than {MAX_LABELS} different values",
                cure="give --labels a file with the labels to choose from",
            )
    return sorted(values)


def _different(lines: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(text for line in lines if (text := " ".join(line.split()))))
