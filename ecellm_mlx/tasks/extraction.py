"""A list of attributes with values and sources, matched with the expected list."""

from __future__ import annotations

import contextlib
import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ecellm_mlx.errors import DataError
from ecellm_mlx.tasks.attribute_lists import NONE, attribute_list_grammar
from ecellm_mlx.tasks.fields import ATTRIBUTE, OUTPUT, TARGETS, attribute_names
from ecellm_mlx.tasks.kind import (
    AnswerCells,
    Constraint,
    Example,
    Kind,
    Predicted,
    input_object,
    quote,
)
from ecellm_mlx.tasks.values import Values

if TYPE_CHECKING:
    from ecellm_mlx.tasks.tally import Tally

PARTS = ("attribute", "value", "source")
# Between several values of one attribute in a cell.
SEPARATOR = "; "


@dataclass(frozen=True)
class Extraction(Kind):
    """Official metrics count as published; an unreadable answer is an empty list.

    In strict ones a label is hit once at most, and everything predicted counts. In
    settings with OOD, value and source may contain one another.
    """

    name = "extraction"
    constraint = Constraint.GRAMMAR
    metrics = ("recall", "precision", "f1")
    answer_columns = (OUTPUT, ATTRIBUTE)

    def doubts(self, examples: Sequence[Example]) -> Iterator[tuple[int, DataError]]:
        """Answers that the evaluator cannot read: they may be trained on."""
        for n, example in enumerate(examples):
            try:
                labels = json.loads(example.output)
            except (ValueError, RecursionError):
                labels = None
            if not isinstance(labels, list) or not all(map(is_item, labels)):
                yield (
                    n,
                    DataError(
                        "the output is no JSON list of attribute, value and source",
                        got=quote(example.output),
                    ),
                )

    def arranged(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Several target attributes are one text."""
        targets = values.get(TARGETS)
        if isinstance(targets, list | tuple):
            return {**values, TARGETS: " and ".join(targets)}
        return dict(values)

    def slots(self, example: Example) -> tuple[list[str], dict[str, str]]:
        """Attributes to fill, as answers write them, and texts to take them from.

        Returns:
            Names of attributes, and the text of each field by its name.

        Raises:
            DataError: the input names no target attributes.
        """
        fields = input_object(example)
        attributes = attribute_names(str(fields.get(TARGETS, "")))
        if not attributes:
            raise DataError(
                f"row {example.id} names no {TARGETS!r} in its input",
                cure="add the attributes to look for",
            )
        return attributes, {
            name: text if isinstance(text, str) else json.dumps(text, ensure_ascii=False)
            for name, text in fields.items()
            if name != TARGETS
        }

    def grammar(self, example: Example, values: Values) -> str:
        """A list of the target attributes, in their order, each at least once."""
        return attribute_list_grammar(*self.slots(example), values)

    def parts(self, example: Example) -> int:
        """The target attributes."""
        return len(self.slots(example)[0])

    def result_parts(self, constants: Mapping[str, str]) -> list[str]:
        """The attributes that are asked of every row alike, as answers name them."""
        return attribute_names(constants.get(TARGETS, ""))

    def part_values(self, answer: str, parts: Sequence[str]) -> list[str]:
        """The value of each attribute; empty where the answer says that there is none."""
        values: dict[str, dict[str, str]] = {}
        with contextlib.suppress(ValueError, TypeError, KeyError):
            # A person's answer need not have all of it.
            for item in json.loads(answer):
                if item["value"] not in (None, NONE):
                    # The same value, found at another place, is one value.
                    text = str(item["value"])
                    each = values.setdefault(str(item["attribute"]).lower(), {})
                    each.setdefault(text.casefold(), text)
        return [SEPARATOR.join(values.get(attribute, {}).values()) for attribute in parts]

    def parse(self, text: str) -> list[Any] | None:
        """The JSON list, empty for JSON that is no list."""
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            return None
        return value if isinstance(value, list) else []

    def matches(self, text: str, example: Example) -> Matches:
        """One answer matched with the labels of its example."""
        answer = self.parse(text)
        items = answer or []
        labels = [label for label in self.parse(example.output) or [] if is_item(label)]
        loose = "OOD" in example.setting
        return Matches(
            labels=labels,
            items=items,
            official=[(i, label) for label in labels for i in items if _fits(i, label, loose)],
            official_items=sum(isinstance(i, dict) and "attribute" in i for i in items),
            strict=_pairs(items, labels, loose),
            invalid=answer is None,
        )

    def _all_matches(self, predicted: Predicted) -> list[Matches]:
        return [self.matches(text, example) for text, example in predicted.pairs]

    def tally(self, predicted: Predicted, *, strict: bool) -> Tally:
        """(n, 3): hits, labels, answered items."""
        from ecellm_mlx.tasks.tally import Tally, extraction_rates

        return Tally.of(
            [m.counts(strict=strict) for m in self._all_matches(predicted)],
            extraction_rates,
        )

    def not_computed(self, predicted: Predicted) -> str:
        """No label at all."""
        labelled = any(match.labels for match in self._all_matches(predicted))
        return "" if labelled else "no row has a label that can be read"

    def qualities(self, predicted: Predicted) -> list[float]:
        """Strict F1 of each row; an unreadable answer is below every readable one."""
        return [
            -1.0 if m.invalid else 2 * len(m.strict) / total if total else 1.0
            for m in self._all_matches(predicted)
            for total in [len(m.labels) + len(m.items)]
        ]

    def details(self, predicted: Predicted) -> dict[str, Any]:
        """Metrics of each attribute that a label names, the most frequent first.

        Under ``attributes``, by attribute: ``n`` (labels), ``predicted`` (items),
        ``official`` and ``strict``.
        """
        from ecellm_mlx.tasks.tally import Tally, extraction_rates

        labels: dict[str, int] = defaultdict(int)
        items: dict[str, int] = defaultdict(int)
        hits: dict[str, dict[str, int]] = {
            "official": defaultdict(int),
            "strict": defaultdict(int),
        }
        for m in self._all_matches(predicted):
            for label in m.labels:
                labels[str(label["attribute"])] += 1
            for item in m.items:
                if isinstance(item, dict) and "attribute" in item:
                    items[str(item["attribute"])] += 1
            for mode, pairs in (("official", m.official), ("strict", m.strict)):
                for _, label in pairs:
                    hits[mode][str(label["attribute"])] += 1
        return {
            "attributes": {
                name: {
                    "n": n,
                    "predicted": items[name],
                    **{
                        mode: Tally.of(
                            [[of_mode[name], n, items[name]]], extraction_rates
                        ).metrics()
                        for mode, of_mode in hits.items()
                    },
                }
                for name, n in sorted(labels.items(), key=lambda entry: (-entry[1], entry[0]))
            }
        }

    def written(self, cells: AnswerCells, example: Example) -> str:
        """The JSON in the cell, or a list made of a column for each attribute."""
        if cells.attributes:
            return json.dumps(_sourced(cells.attributes, example), ensure_ascii=False)
        try:
            json.loads(cells.output)
        except ValueError:
            raise DataError(
                "the answer is no JSON list of attribute, value and source",
                got=quote(cells.output),
            ) from None
        return cells.output


@dataclass(frozen=True)
class Matches:
    """One answer: what was asked for, what was predicted, what fits.

    Attributes:
        labels: the expected items.
        items: the answered items, of whatever form.
        official: (item, label) pairs that match, as published: an item that is there
            twice hits twice.
        official_items: answered items that have an attribute.
        strict: (item, label) pairs, each item and each label in one pair at most.
        invalid: whether the answer is no JSON.
    """

    labels: list[dict[str, Any]]
    items: list[Any]
    official: list[tuple[Any, dict[str, Any]]]
    official_items: int
    strict: list[tuple[Any, dict[str, Any]]]
    invalid: bool

    def counts(self, *, strict: bool) -> list[float]:
        """Hits, labels, answered items."""
        if strict:
            return [len(self.strict), len(self.labels), len(self.items)]
        return [len(self.official), len(self.labels), self.official_items]


def is_item(value: Any) -> bool:
    """Whether ``value`` is an object with an attribute, a value and a source."""
    return isinstance(value, dict) and all(key in value for key in PARTS)


def _fits(item: Any, label: Mapping[str, Any], loose: bool) -> bool:
    """Whether an item is the label; loosely, value and source may contain one another."""
    if not is_item(item):
        return False
    if all(item[key] == label[key] for key in PARTS):
        return True
    if not loose or item["attribute"] != label["attribute"]:
        return False
    value, source = item["value"], item["source"]
    if value is None or not isinstance(source, str) or not isinstance(label["source"], str):
        return False
    return _contain(str(value), str(label["value"])) and _contain(source, label["source"])


def _contain(a: str, b: str) -> bool:
    return a in b or b in a


def _pairs(
    items: Sequence[Any], labels: Sequence[dict[str, Any]], loose: bool
) -> list[tuple[Any, dict[str, Any]]]:
    """Labels paired with an item of their own each, exact matches first."""
    free = list(items)
    left = list(labels)
    pairs = []
    for rule in (False, True) if loose else (False,):
        for label in list(left):
            match = next((n for n, item in enumerate(free) if _fits(item, label, rule)), None)
            if match is not None:
                pairs.append((free.pop(match), label))
                left.remove(label)
    return pairs


def _sourced(values: Mapping[str, str], example: Example) -> list[dict[str, str]]:
    """Attributes, each with the field of the input that holds its value."""
    fields: dict[str, Any] = json.loads(example.input)
    items = []
    for name, cell in values.items():
        value = " ".join(cell.split())
        source = next(
            (
                key
                for key, text in fields.items()
                if key != TARGETS and value and value in str(text)
            ),
            None,
        )
        if value and value != NONE and source is None:
            raise DataError(
                f"the value of {name} is in none of the mapped fields",
                got=quote(value),
                cure="map the column it was taken from, or empty the cell",
            )
        items.append(
            {
                "attribute": name.lower(),
                "value": value if source else NONE,
                "source": source or NONE,
            }
        )
    return items
