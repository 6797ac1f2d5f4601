"""Guess which column is which field, from names and from values.

A guess is shown to the user and never used without a word. Prints nothing.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

from ecellm_mlx.tables import Table
from ecellm_mlx.tables.mapping import Mapping, missing
from ecellm_mlx.tasks.registry import Task

SAMPLE_ROWS = 200
# A field is mapped from this score on; 1 is a column of that very name.
MIN_SCORE = 0.5
NAME_WEIGHT, VALUE_WEIGHT = 0.75, 0.25

# What columns are called in exports, the likeliest first; English, German, French, Spanish
# and Italian.
SYNONYMS: dict[str, tuple[str, ...]] = {
    "title": (
        "title", "product title", "product name", "item name", "name", "product", "item",
        "listing", "titel", "bezeichnung", "produktname", "artikel", "titre", "nom",
        "designation", "titulo", "nombre", "producto", "titolo", "nome", "prodotto",
    ),
    "description": (
        "description", "product description", "long description", "body", "body html", "desc",
        "details", "summary", "overview", "beschreibung", "descripcion", "descrizione",
    ),
    "features": (
        "features", "feature", "bullet points", "bullets", "highlights", "specs",
        "specifications", "key features", "about", "merkmale", "caracteristiques",
    ),
    "brand": (
        "brand", "manufacturer", "vendor", "maker", "producer", "publisher", "label", "marke",
        "hersteller", "marque", "fabricant", "marca", "fabricante", "produttore",
    ),
    "price": (
        "price", "sale price", "list price", "regular price", "cost", "amount", "preis", "prix",
        "precio", "prezzo",
    ),
    "review": (
        "review", "review text", "review body", "comment", "feedback", "text", "content",
        "rezension", "bewertung", "avis", "commentaire", "resena", "recensione",
    ),
    "query": ("query", "search", "search query", "search term", "keyword", "suchbegriff"),
    "question": ("question", "customer question", "frage", "pregunta", "domanda"),
    "document": ("document", "documents", "context", "passage", "evidence", "faq", "reviews"),
    "history": ("history", "purchases", "orders", "items", "basket", "sequence"),
    "product list": ("product list", "products", "candidates", "results", "items"),
    "options": ("options", "choices", "candidates"),
}  # fmt: skip
CONCEPTS = {
    "product title": "title",
    "product": "title",
    "title": "title",
    "product description": "description",
    "product feature": "features",
    "product price": "price",
    "product brand": "brand",
    "manufacturer": "brand",
}
# Fields of own labels, which have no names of their own.
OWN_FIELDS = ("title", "description", "brand")
SIDES = {1: {"1", "left", "a", "first", "l", "x"}, 2: {"2", "right", "b", "second", "r", "y"}}
PRICE = re.compile(r"^\W{0,2}\s?\d[\d.,' ]*\s?([a-zA-Z]{3}|[€£$¥])?$")
WORDS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")


@dataclass(frozen=True)
class Choice:
    """One field's column, how sure that is (0-1), and an example of a value."""

    field: str
    column: str
    score: float
    example: str


@dataclass(frozen=True)
class Guess:
    """A proposed mapping; ``missing`` are required fields that no column fits."""

    choices: tuple[Choice, ...]
    missing: tuple[str, ...]

    @property
    def mapping(self) -> Mapping:
        """The columns as a mapping."""
        return Mapping({choice.field: choice.column for choice in self.choices}, {})

    def options(self) -> list[str]:
        """As ``--map`` options."""
        return self.mapping.items()


@dataclass(frozen=True)
class _Profile:
    """What the values of a column are like, each a share of the filled ones."""

    filled: float
    words: float
    different: float
    prices: float
    example: str


def guess(table: Table, task: Task | None, constants: Sequence[str] = ()) -> Guess:
    """The likeliest mapping of a table's columns to the fields of ``task``.

    Args:
        table: only its first rows are read.
        task: None for own labels.
        constants: fields that need no column.
    """
    names = table.names
    profiles = _profiles(table)
    fields = [f for f in (task.fields if task else OWN_FIELDS) if f not in constants]
    ranked = sorted(
        (
            (_score(field, name, profile, required=bool(task and field in task.required)), i, j)
            for i, field in enumerate(fields)
            for j, (name, profile) in enumerate(zip(names, profiles, strict=True))
        ),
        key=lambda entry: (-entry[0], entry[1], entry[2]),
    )
    taken: dict[int, Choice] = {}
    used: set[int] = set()
    for score, i, j in ranked:
        if score < MIN_SCORE:
            break
        if i not in taken and j not in used:
            taken[i] = Choice(fields[i], names[j], round(score, 2), profiles[j].example)
            used.add(j)
    choices = tuple(taken[i] for i in sorted(taken))
    lacking: tuple[str, ...] = ()
    if task:
        mapped = {choice.field: choice.column for choice in choices}
        lacking = tuple(missing(task, mapped, dict.fromkeys(constants, "")))
    elif not choices:
        lacking = OWN_FIELDS[:1]
    return Guess(choices, lacking)


def _score(field: str, name: str, profile: _Profile, *, required: bool) -> float:
    concept, side = _concept(field)
    words = [word.lower() for word in WORDS.findall(name)]
    if side:
        # Two products in one row: the column must say which one it is of.
        marks = [word for word in words if word in SIDES[side]]
        if not marks:
            return 0.0
        words.remove(marks[-1])
    by_name = _name_score(words, SYNONYMS[concept]) if concept in SYNONYMS else 0.0
    if not by_name and not required:
        return 0.0
    by_value = _value_score(concept, profile)
    if profile.filled == 0 or (concept == "price" and profile.prices < 0.5):
        return 0.0
    # Values alone can show a title, never more than a name would.
    alone = 0.6 * by_value if concept == "title" and not by_name else 0.0
    return max(alone, NAME_WEIGHT * by_name + VALUE_WEIGHT * by_value if by_name else 0.0)


def _concept(field: str) -> tuple[str, int]:
    """The kind of field, and which of two products it is of (0 if there is one)."""
    if found := re.match(r"product ([12])\.(\w+)$", field):
        part = found.group(2)
        return CONCEPTS.get(part, part), int(found.group(1))
    if found := re.match(r"Product ([12]):$", field):
        return "title", int(found.group(1))
    return CONCEPTS.get(field, field), 0


def _name_score(words: Sequence[str], synonyms: Sequence[str]) -> float:
    best = 0.0
    for rank, synonym in enumerate(synonyms):
        parts = synonym.split()
        if list(words) == parts:
            best = max(best, 1 - 0.01 * rank)
        elif parts and all(part in words for part in parts):
            # ``brand id`` is less a brand than ``brand``.
            best = max(best, 0.8 * len(parts) / len(words) + 0.1 - 0.01 * rank)
    return best


def _value_score(concept: str, profile: _Profile) -> float:
    """How well values fit: 0-1."""
    words, text = profile.words, 1 - profile.prices
    if concept == "title":
        fit = 1.0 if 2 <= words <= 40 else 0.3
        return fit * profile.different * text
    if concept in ("description", "features", "document", "review"):
        return min(1.0, words / 15) * text
    if concept == "brand":
        return (1.0 if words <= 4 else 0.2) * text
    if concept == "price":
        return profile.prices
    return text


def _profiles(table: Table) -> list[_Profile]:
    rows = [row.cells for row in islice(table.good_rows(), SAMPLE_ROWS)]
    profiles = []
    for place in range(len(table.header)):
        values = [text for cells in rows if (text := " ".join(cells[place].split()))]
        count = len(values) or 1
        urls = sum(v.startswith(("http://", "https://")) for v in values)
        profiles.append(
            _Profile(
                filled=len(values) / (len(rows) or 1),
                # An address is one long word and no text to read.
                words=0.0 if urls > count / 2 else sum(len(v.split()) for v in values) / count,
                different=len(set(values)) / count,
                prices=sum(bool(PRICE.match(v)) for v in values) / count,
                example=values[0] if values else "",
            )
        )
    return profiles
