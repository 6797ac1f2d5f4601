"""Fields that tasks share: which hold several texts, and how lists are written as text.

Knows nothing of rows, tables or models.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from ecellm_mlx.errors import DataError

LISTS = ("history", "product list", "document")  # fields that hold several texts
OPTIONS = "options"  # the options of a choice, beside the fields of its input
TARGETS = "target attributes"  # what an extraction is to find
# Columns that an own table's answers can come from; an attribute's name follows the dot.
OUTPUT, LABELS, ATTRIBUTE = "output", "labels", "answer."


def lettered(items: Sequence[str]) -> list[str]:
    """``["A: first", "B: second", …]``, the way options and ranked products are written.

    Raises:
        DataError: there are more items than letters.
    """
    if len(items) > 26:
        raise DataError(
            "too many options for one question", got=str(len(items)), expected="at most 26"
        )
    return [f"{chr(ord('A') + n)}: {item}" for n, item in enumerate(items)]


def attribute_names(text: str) -> list[str]:
    """The attributes that ``target attributes`` names, as answers write them."""
    names = re.split(r",\s*(?:and\s+)?|\s+and\s+", text)
    return list(dict.fromkeys(name.strip().lower() for name in names if name.strip()))


def unlettered(text: str) -> str:
    """``A: first`` without its letter; other text as it is."""
    letter, separator, rest = text.partition(": ")
    return rest if separator and len(letter) == 1 and letter.isupper() else text
