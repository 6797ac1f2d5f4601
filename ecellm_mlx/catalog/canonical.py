"""One spelling for a value that shops write in many ways: ``1500 watt`` is ``1.5 kW``.

By rule, from the tables in ``canonical.toml``, and never invented: what no rule covers, or
what can be read in two ways (``1,500`` is one and a half or fifteen hundred), has none.
Units are converted by pint. Knows nothing of models or rows.
"""

from __future__ import annotations

import re
import tomllib
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

# A number as shops write it, and several that belong together: 10 x 20 x 30 cm.
NUMBER = r"\d+(?:[.,]\d+)*"
QUANTITY = re.compile(
    rf"(?P<numbers>{NUMBER}(?:\s*[x×*]\s*{NUMBER})*)\s*-?\s*(?P<unit>[^\d\s].*)", re.DOTALL
)
BETWEEN = re.compile(r"\s*[x×*]\s*")
THOUSANDS = 3
# Digits that are shown: products are not measured more finely.
DIGITS = 6


@dataclass(frozen=True)
class Unit:
    """A unit of measurement: how it is written, what pint calls it, whether it is shown."""

    symbol: str
    name: str
    shown: bool


@dataclass(frozen=True)
class Tables:
    """What ``canonical.toml`` says: units by word, and words by part of an attribute."""

    units: Mapping[str, Unit]
    words: tuple[tuple[tuple[str, ...], Mapping[str, str]], ...]


def canonical(attribute: str, value: str) -> str:
    """The canonical spelling of an attribute's value; empty where no rule has one.

    Args:
        attribute: its name; words of colours, materials and sizes hold for such only.
        value: as it was found in a text.
    """
    if quantity := _quantity(value):
        return quantity
    name, word = _bare(attribute), _bare(value)
    parts = name.split()
    for attributes, values in tables().words:
        # Colours of a "color name", sizes of a "shoe size"; a "decor" has no colour.
        if any(part in parts for part in attributes) and word in values:
            return values[word]
    return ""


@cache
def tables() -> Tables:
    """The rules, read once."""
    file = resources.files("ecellm_mlx.catalog") / "canonical.toml"
    raw = tomllib.loads(file.read_text(encoding="utf-8"))
    units: dict[str, Unit] = {}
    for entry in raw["unit"]:
        unit = Unit(entry["symbol"], entry["as"], entry.get("shown", False))
        units |= {_bare_unit(word): unit for word in entry["words"]}
    words = tuple(
        (
            tuple(group["attributes"]),
            {_bare(w): name for name, spellings in group["values"].items() for w in spellings},
        )
        for group in raw["words"]
    )
    return Tables(units, words)


def _quantity(value: str) -> str:
    """Numbers and their unit, in the unit that suits their size."""
    match = QUANTITY.fullmatch(value.strip())
    if not match:
        return ""
    unit = tables().units.get(_bare_unit(match["unit"]))
    numbers = [_number(text) for text in BETWEEN.split(match["numbers"])]
    if unit is None or any(number is None for number in numbers):
        return ""
    amounts = [_registry().Quantity(number, unit.name) for number in numbers]
    alike = _shown_like(unit)
    # The smallest one where even that is less than 1.
    shown = alike[0]
    for other in alike:
        if max(amount.to(other.name).m for amount in amounts) >= 1:
            shown = other
    written = [f"{float(amount.to(shown.name).m):.{DIGITS}g}" for amount in amounts]
    if any("e" in number for number in written):
        return ""
    return f"{' × '.join(written)} {shown.symbol}"


@cache
def _shown_like(unit: Unit) -> list[Unit]:
    """The units in which a quantity of ``unit`` may be shown, the smallest first."""
    alike = [
        other
        for other in dict.fromkeys(tables().units.values())
        if other.shown and _registry().Unit(other.name).is_compatible_with(unit.name)
    ]
    return sorted(
        alike, key=lambda other: float(_registry().Quantity(1, other.name).to_base_units().m)
    )


def _number(text: str) -> float | None:
    """A number with decimal points or commas; None if it can be read in two ways."""
    points, commas = text.count("."), text.count(",")
    if commas > 1 and points > 1:
        return None
    if commas and points:
        # The last of the two marks the fraction.
        thousands, decimal = (",", ".") if text.rfind(".") > text.rfind(",") else (".", ",")
        if text.count(decimal) > 1:
            return None
        return float(text.replace(thousands, "").replace(decimal, "."))
    mark = "," if commas else "."
    if max(points, commas) > 1:
        groups = text.split(mark)[1:]
        return (
            float(text.replace(mark, "")) if all(len(g) == THOUSANDS for g in groups) else None
        )
    if commas and len(text.split(",")[1]) == THOUSANDS and not text.startswith("0"):
        return None
    return float(text.replace(",", "."))


def _bare(text: str) -> str:
    """Words in small letters without accents, hyphens and points."""
    letters = unicodedata.normalize("NFKD", text.replace("ß", "ss"))
    plain = "".join(c for c in letters if not unicodedata.combining(c)).lower()
    return " ".join(re.sub(r"[^\w]+|_", " ", plain).split())


def _bare_unit(text: str) -> str:
    """A unit in small letters without points; one letter alone as it is, for 3M is a brand."""
    words = text.replace(".", " ").split()
    return words[0] if len(words) == 1 == len(words[0]) else " ".join(words).lower()


@cache
def _registry() -> Any:
    import pint

    return pint.UnitRegistry()
