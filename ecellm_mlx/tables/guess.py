"""Guess which column is which field, from names and from values.

A guess is shown to the user and never used without a word. Prints nothing.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

from ecellm_mlx.tables import Table
from ecellm_mlx.tables.mapping import Mapping
from ecellm_mlx.tasks.registry import Task

SAMPLE_ROWS = 200
# A field is mapped from this score on; 1 is a column of that very name.
MIN_SCORE = 0.5
NAME_WEIGHT, VALUE_WEIGHT = 0.75, 0.25

# What columns are called in exports, the likeliest first, without accents: English, German,
# French, Spanish, Italian, Portuguese, Dutch and Polish.
SYNONYMS: dict[str, tuple[str, ...]] = {
    "title": (
        "title", "product title", "product name", "item name", "name", "product", "item",
        "listing", "titel", "bezeichnung", "produktname", "artikelname", "artikel", "titre",
        "nom", "designation", "intitule", "titulo", "nombre", "producto", "titolo", "nome",
        "prodotto", "produto", "naam", "productnaam", "nazwa", "tytul", "produkt",
    ),
    "description": (
        "description", "product description", "long description", "body", "body html", "desc",
        "details", "summary", "overview", "short description", "beschreibung", "langtext",
        "descriptif", "descripcion", "descrizione", "descricao", "omschrijving",
        "beschrijving", "opis",
    ),
    "features": (
        "features", "feature", "bullet point", "bullet points", "bullets", "highlights",
        "specs", "specifications", "key features", "about", "merkmale", "eigenschaften",
        "caracteristiques", "caracteristicas", "caratteristiche", "kenmerken", "cechy",
    ),
    "brand": (
        "brand", "manufacturer", "vendor", "maker", "producer", "publisher", "label", "brands",
        "marke", "hersteller", "marque", "fabricant", "marca", "fabricante", "produttore",
        "merk", "fabrikant", "marka", "producent",
    ),
    "price": (
        "price", "sale price", "list price", "regular price", "standard price", "variant price",
        "start price", "cost", "amount", "preis", "prix", "precio", "prezzo", "preco", "prijs",
        "cena",
    ),
    "review": (
        "review", "review text", "review body", "comment", "feedback", "text", "content",
        "rezension", "bewertung", "avis", "commentaire", "resena", "recensione", "avaliacao",
        "beoordeling", "opinia",
    ),
    "query": ("query", "search", "search query", "search term", "keyword", "suchbegriff"),
    "question": (
        "question", "customer question", "frage", "pregunta", "domanda", "pergunta", "vraag",
        "pytanie",
    ),
    "document": ("document", "documents", "context", "passage", "evidence", "faq", "reviews"),
    "history": ("history", "purchases", "orders", "items", "basket", "sequence"),
    "product list": ("product list", "products", "candidates", "results", "items"),
    "options": ("options", "choices", "candidates"),
}  # fmt: skip
# Shortest word that may be the end of a compound, as in Artikelbezeichnung, Verkoopprijs.
COMPOUND = 5
# Akeneo's columns: description-en_US-ecommerce; eBay's: *C:Brand, *Title.
LOCALE = re.compile(r"-[a-z]{2}_[A-Z]{2}(-\w+)?$")
REQUIRED_MARK = re.compile(r"^\*(C:)?")
# Letters that stay letters when accents are taken off.
PLAIN_LETTERS = str.maketrans({"ß": "ss", "ø": "o", "Ø": "O", "ł": "l", "Ł": "L", "æ": "ae"})
# What is left of the score of a column that is blank in every row.
BLANK_SHARE = 0.6
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
    """One field's column, how sure that is (0-1), an example of a value, and why it."""

    field: str
    column: str
    score: float
    example: str
    reason: str


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
    """What the values of a column are like, each a share of the filled ones.

    ``filled`` is a share of all rows, ``words`` their mean number.
    """

    filled: float
    letters: float
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
    required = task.required if task else ()
    ranked = sorted(
        (
            (
                *_score(field, name, profile, required=field in required),
                i,
                j,
            )
            for i, field in enumerate(fields)
            for j, (name, profile) in enumerate(zip(names, profiles, strict=True))
        ),
        key=lambda entry: (-entry[0], entry[2], entry[3]),
    )
    taken: dict[int, Choice] = {}
    used: set[int] = set()
    for score, reason, i, j in ranked:
        if score < MIN_SCORE:
            break
        if i not in taken and j not in used:
            example = profiles[j].example
            taken[i] = Choice(fields[i], names[j], round(score, 2), example, reason)
            used.add(j)
    choices = tuple(taken[i] for i in sorted(taken))
    lacking: tuple[str, ...] = ()
    if task:
        mapped = {choice.field: choice.column for choice in choices}
        lacking = tuple(task.lacking(mapped, constants))
    elif not choices:
        lacking = OWN_FIELDS[:1]
    return Guess(choices, lacking)


def _score(field: str, name: str, profile: _Profile, *, required: bool) -> tuple[float, str]:
    """How well a column fits a field (0-1), and why."""
    concept, side = _concept(field)
    words = _words(name)
    if side:
        # Two products in one row: the column must say which one it is of.
        marks = [word for word in words if word in SIDES[side]]
        if not marks:
            return 0.0, ""
        words.remove(marks[-1])
    by_name, synonym = _name_score(words, SYNONYMS.get(concept, (concept.lower(),)))
    if not by_name and not required:
        return 0.0, ""
    if profile.filled == 0 or (concept == "price" and profile.prices < 0.5):
        return 0.0, ""
    if concept == "brand" and profile.letters < 0.5:
        # A column ``label`` of zeros and ones.
        return 0.0, ""
    by_value = _value_score(concept, profile)
    share = BLANK_SHARE + (1 - BLANK_SHARE) * profile.filled
    blank = f", blank in {1 - profile.filled:.0%} of the rows" if profile.filled < 0.5 else ""
    if by_name:
        score = NAME_WEIGHT * by_name + VALUE_WEIGHT * by_value
        return score * share, f"named like {synonym!r}{blank}"
    # Values alone can show a title, never more than a name would.
    alone = 0.6 * by_value if concept == "title" else 0.0
    return alone * share, f"its values read like titles{blank}"


def _words(name: str) -> list[str]:
    """The words of a column's name in small letters, without accents."""
    plain = LOCALE.sub("", REQUIRED_MARK.sub("", name)).translate(PLAIN_LETTERS)
    letters = unicodedata.normalize("NFKD", plain)
    bare = "".join(letter for letter in letters if not unicodedata.combining(letter))
    return [word.lower() for word in WORDS.findall(bare)]


def _concept(field: str) -> tuple[str, int]:
    """The kind of field, and which of two products it is of (0 if there is one)."""
    if match := re.match(r"product ([12])\.(\w+)$", field):
        part = match.group(2)
        return CONCEPTS.get(part, part), int(match.group(1))
    if match := re.match(r"Product ([12]):$", field):
        return "title", int(match.group(1))
    return CONCEPTS.get(field, field), 0


def _name_score(words: Sequence[str], synonyms: Sequence[str]) -> tuple[float, str]:
    """How well a name fits (0-1), and the synonym that it fits."""
    best = (0.0, "")
    for rank, synonym in enumerate(synonyms):
        parts = synonym.split()
        score = 0.0
        if list(words) == parts:
            score = 1 - 0.01 * rank
        elif all(part in words for part in parts):
            # ``brand id`` is less a brand than ``brand``.
            score = 0.8 * len(parts) / len(words) + 0.1 - 0.01 * rank
        elif len(synonym) >= COMPOUND and len(words) == 1 and words[0].endswith(synonym):
            score = 0.8 - 0.01 * rank
        best = max(best, (score, synonym))
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
                letters=sum(any(map(str.isalpha, v)) for v in values) / count,
                # An address is one long word and no text to read.
                words=0.0 if urls > count / 2 else sum(len(v.split()) for v in values) / count,
                different=len(set(values)) / count,
                prices=sum(bool(PRICE.match(v)) for v in values) / count,
                example=values[0] if values else "",
            )
        )
    return profiles
