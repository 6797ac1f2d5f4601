"""A question in a file, to ask it again next month: commented TOML.

task = "Attribute_Value_Extraction"
attributes = ["Brand", "Color"]
[map]
"product title" = "title"
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from ecellm_mlx.data.question import DEFAULT_MAX_WORDS, Question, build
from ecellm_mlx.errors import DataError
from ecellm_mlx.files import write_atomic


@dataclass(frozen=True)
class SavedQuestion:
    """What is asked, and what ``--mapping FILE`` holds; options win over the file.

    ``map`` has ``field -> column`` or ``field -> :text``, as ``--map`` does.
    """

    task: str = ""
    instruction: str = ""
    labels: list[str] = field(default_factory=list)
    attributes: list[str] = field(default_factory=list)
    name: str = ""
    max_words: int = 0
    map: dict[str, str] = field(default_factory=dict)

    @property
    def items(self) -> list[str]:
        """The mapping as ``--map`` options."""
        return [f"{name}={column}" for name, column in self.map.items()]

    def question(self, names: Sequence[str], mapping: Sequence[str] | None = None) -> Question:
        """The question about a table with the columns ``names``.

        Args:
            names: the table's columns.
            mapping: ``--map`` options in place of ``map``.

        Raises:
            UsageError: see ``question.build``.
        """
        return build(
            names,
            task=self.task or None,
            mapping=self.items if mapping is None else mapping,
            instruction=self.instruction or None,
            labels=self.labels,
            attributes=self.attributes,
            name=self.name or None,
            max_words=self.max_words or DEFAULT_MAX_WORDS,
        )


def load(path: Path) -> SavedQuestion:
    """Read a mapping file.

    Raises:
        DataError: missing, no TOML, or with keys or values that mean nothing here.
    """
    try:
        value = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"--mapping {path} does not exist", cure="check the path") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise DataError(
            f"--mapping {path} cannot be read", got=str(error).rstrip("."), expected="TOML"
        ) from None
    known = {f.name: f for f in fields(SavedQuestion)}
    problems = [f"{name!r} is unknown" for name in value if name not in known]
    for name, item in value.items():
        if name in known and not _fits(name, item):
            problems.append(f"{name!r} is of the wrong type")
    if problems:
        raise DataError(
            f"--mapping {path}: {'; '.join(problems)}", expected=f"keys {', '.join(known)}"
        )
    return SavedQuestion(**value)


def save(path: Path, saved: SavedQuestion) -> None:
    """Write a mapping file that ``load`` reads."""
    lines = ["# A question about every row of a table, for `ecellm catalog run --mapping`."]
    for item in fields(SavedQuestion):
        value = getattr(saved, item.name)
        if value and item.name != "map":
            lines.append(f"{item.name} = {_toml(value)}")
    lines += ["", "[map]  # field = column, or :text that is the same for every row"]
    lines += [f"{_toml(name)} = {_toml(column)}" for name, column in saved.map.items()]
    write_atomic(path, "\n".join(lines) + "\n")


def _fits(name: str, value: Any) -> bool:
    if name == "map":
        return isinstance(value, dict) and all(isinstance(v, str) for v in value.values())
    if name in ("labels", "attributes"):
        return isinstance(value, list) and all(isinstance(v, str) for v in value)
    if name == "max_words":
        return isinstance(value, int) and not isinstance(value, bool) and value > 0
    return isinstance(value, str)


def _toml(value: Any) -> str:
    # JSON's strings are TOML's basic strings, but for DEL, which TOML wants escaped.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
