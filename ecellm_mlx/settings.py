"""Settings that are declared once: typed, with a sentence, a default and bounds for each.

A group of settings is a frozen dataclass whose fields are made by ``setting`` or, where a
command takes them, by ``option``. Recipe files and ``--set``, command lines
(``cli.options``), forms, the tables in ``docs/`` and ``job.json`` derive from it. What is
wrong is told all together. Knows no group by name.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from enum import StrEnum
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, NoReturn, TypeVar, Union, get_args, get_origin, get_type_hints

from ecellm_mlx.errors import UsageError

Group = TypeVar("Group")

WORDS = {bool: "true or false", int: "a whole number", float: "a number", Path: "a path"}


@dataclass(frozen=True)
class Setting:
    """One setting as it is declared.

    Attributes:
        key: the field's name, which is also its key in files.
        hint: its type; ``optional`` if None stands for "not given".
        default: ``MISSING`` where it must be given.
        doc: what it does, as part of a sentence.
        flags: the command line's names, the long one first; none for a recipe's settings.
        at_least, above, below, at_most: bounds of a number, or of each of several.
        noun: what a value is, for values that are more than a number: ``confidence``.
        example: a value as text, where the type does not say how it is written.
        kept: False for what matters only when a command is given: ``job.json`` is without.
    """

    key: str
    hint: Any
    optional: bool
    default: Any
    doc: str
    flags: tuple[str, ...] = ()
    at_least: float | None = None
    above: float | None = None
    below: float | None = None
    at_most: float | None = None
    noun: str = ""
    example: str = ""
    kept: bool = True

    @property
    def name(self) -> str:
        """What a user calls it."""
        return self.flags[0] if self.flags else self.key

    @property
    def choices(self) -> tuple[str, ...]:
        """The values that it can have, where they are listed; those of a switch, too."""
        if self.hint is bool:
            return ("true", "false")
        item = get_args(self.hint)[0] if self.repeated else self.hint
        if isinstance(item, type) and issubclass(item, StrEnum):
            return tuple(map(str, item))
        return get_args(item) if get_origin(item) is Literal else ()

    @property
    def repeated(self) -> bool:
        """Whether a command takes it any number of times."""
        return get_origin(self.hint) is tuple and get_args(self.hint)[1:] == (Ellipsis,)

    @property
    def kind(self) -> str:
        """The type in words."""
        if self.hint is bool and self.flags:
            return "no value: a switch"
        if self.choices and self.hint is not bool:
            return f"{'any' if self.repeated else 'one'} of {', '.join(self.choices)}"
        origin, items = get_origin(self.hint), get_args(self.hint)
        if origin is dict:
            number = "whole number" if items[1] is int else "number"
            return f"a {number} by name, as in {self.example}"
        if self.repeated:
            return f"text such as {self.example}, repeatable" if self.example else "a list"
        if origin is tuple:
            return f"{len(items)} numbers such as {self.example}"
        return "a list of names" if items else WORDS.get(self.hint, "text")

    def problems(self, value: Any) -> Iterator[str]:
        """What is wrong with a value of the right type, each as part of a sentence."""
        values = value if isinstance(value, tuple) else (value,)
        if self.choices and self.hint is not bool:
            for one in values:
                if one not in self.choices:
                    yield self._unlisted(one)
        numbers = [v for v in values if isinstance(v, int | float) and not isinstance(v, bool)]
        if not all(map(math.isfinite, numbers)):
            yield f"{self.name} must be a finite number, not {as_text(value)}"
        elif not all(map(self._inside, numbers)):
            bounds = self._bounds()
            if self.noun:
                yield f"{self.name} is no {self.noun}: expected {bounds}, got {as_text(value)}"
            else:
                yield f"{self.name} must {bounds}, not {as_text(value)}"

    def _unlisted(self, value: Any) -> str:
        if self.flags:
            return f"{self.name} {value} is unknown: expected {' or '.join(self.choices)}"
        return f"{self.name} must be one of {', '.join(self.choices)}, not {value!r}"

    def _inside(self, number: float) -> bool:
        return not (
            (self.at_least is not None and number < self.at_least)
            or (self.above is not None and number <= self.above)
            or (self.below is not None and number >= self.below)
            or (self.at_most is not None and number > self.at_most)
        )

    def _bounds(self) -> str:
        if self.noun:
            return f"{self.at_least or self.above or 0:g} to {self.at_most:g}"
        if self.at_least == 0 and self.at_most is None and self.below is None:
            return "not be negative"
        if self.above == 0 and self.at_most is None and self.below is None:
            return "be positive"
        if self.at_least is not None and self.at_most is not None:
            return f"be between {self.at_least:g} and {self.at_most:g}"
        named = {"at least": self.at_least, "above": self.above, "below": self.below}
        named["at most"] = self.at_most
        return "be " + " and ".join(f"{k} {v:g}" for k, v in named.items() if v is not None)


def setting(default: Any, doc: str, **declared: Any) -> Any:
    """A field with its explanation; ``declared`` are attributes of ``Setting``."""
    metadata = {"doc": doc, **declared}
    if isinstance(default, list | dict):
        return field(default_factory=lambda: type(default)(default), metadata=metadata)
    if default is MISSING:
        return field(metadata=metadata)
    return field(default=default, metadata=metadata)


def option(default: Any, doc: str, *flags: str, **declared: Any) -> Any:
    """A field that a command takes as ``--its-name``, or as ``flags``, the long one first."""
    return setting(default, doc, flags=flags, **{"option": True, **declared})


def described(group: type[Any]) -> tuple[Setting, ...]:
    """All settings of a group in the order of their declaration; other fields are left out."""
    hints = get_type_hints(group)
    result = []
    for item in fields(group):
        if "doc" not in item.metadata:
            continue
        declared = dict(item.metadata)
        if declared.pop("option", False) and not declared["flags"]:
            declared["flags"] = ("--" + item.name.replace("_", "-"),)
        hint, optional = _without_none(hints[item.name])
        default = item.default
        if item.default_factory is not MISSING:
            default = item.default_factory()
        result.append(Setting(item.name, hint, optional, default, **declared))
    return tuple(result)


def problems(settings: Any) -> Iterator[str]:
    """What is wrong with single values of a group, each as part of a sentence."""
    for one in described(type(settings)):
        if (value := getattr(settings, one.key)) is not None:
            yield from one.problems(value)


def check(settings: Any, *contradictions: str) -> None:
    """Refuse a group of options with all that is wrong in it.

    Raises:
        UsageError: with the problems of single values, then ``contradictions``.
    """
    if wrong := [*problems(settings), *contradictions]:
        raise UsageError("; ".join(wrong))


def parse(group: type[Any], values: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Values by key as their types; what is unknown or of another type is told.

    Text is parsed. Returns the values that could be read, and the problems.
    """
    known = {one.key: one for one in described(group)}
    parsed: dict[str, Any] = {}
    wrong: list[str] = []
    for key, value in values.items():
        if key not in known:
            wrong.append(f"unknown setting {key!r} (known: {', '.join(known)})")
            continue
        one = known[key]
        try:
            parsed[key] = None if one.optional and value is None else convert(one.hint, value)
        except (ValueError, TypeError):
            if one.flags:
                noun = one.noun or one.kind.removeprefix("a ")
                wrong.append(f"{one.name} {value} is no {noun}: expected {one.kind}")
            else:
                wrong.append(f"{key}={value!r} is not {one.kind}")
    return parsed, wrong


def make(group: type[Group], values: Mapping[str, Any]) -> Group:
    """A group of options from values by key, of which texts are parsed.

    Raises:
        UsageError: what cannot be read; else what the group itself refuses.
    """
    parsed, wrong = parse(group, values)
    if wrong:
        raise UsageError("; ".join(wrong))
    return group(**parsed)


def convert(hint: Any, value: Any) -> Any:
    """``value`` as the type ``hint``; text is parsed, other types must match.

    Raises:
        ValueError, TypeError: the value does not fit.
    """
    if hint is bool:
        if isinstance(value, str) and value.lower() in ("true", "false"):
            return value.lower() == "true"
        return value if isinstance(value, bool) else _reject(value)
    if hint is int:
        return int(value) if not isinstance(value, bool | float) else _reject(value)
    if hint is float:
        return float(value) if not isinstance(value, bool) else _reject(value)
    if hint is Path:
        return Path(value)
    if isinstance(hint, type) and issubclass(hint, StrEnum):
        # Another word is told as one that is not listed.
        return hint(value) if value in list(hint) else convert(str, value)
    items = get_args(hint)
    if get_origin(hint) is dict:
        return _by_name(items[1], value)
    if get_origin(hint) in (list, tuple):
        parts = value.split(",") if isinstance(value, str) else list(value)
        if items[1:] and items[1:] != (Ellipsis,):
            return tuple(convert(item, part) for item, part in zip(items, parts, strict=True))
        if isinstance(value, str):
            parts = [part.strip() for part in parts if part.strip()]
        return get_origin(hint)(convert(items[0], part) for part in parts)
    return value if isinstance(value, str) else _reject(value)


def as_text(value: Any) -> str:
    """A value as files and commands take it: the inverse of ``convert``."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Mapping):
        return ",".join(f"{name}:{number}" for name, number in value.items())
    if isinstance(value, list | tuple):
        return ",".join(map(as_text, value))
    return "" if value is None else str(value)


def to_json(settings: Any) -> dict[str, Any]:
    """All fields of a group that are kept, as JSON values."""
    return {
        item.name: _plain(getattr(settings, item.name))
        for item in fields(settings)
        if item.metadata.get("kept", True)
    }


def from_json(group: type[Group], value: Mapping[str, Any]) -> Group:
    """The inverse of ``to_json``; keys that are no fields are left alone.

    Raises:
        KeyError: a required one is missing.
        ValueError, TypeError: a value is of another type.
    """
    hints = get_type_hints(group)
    read: dict[str, Any] = {}
    for one in described(group):
        if one.default is MISSING and one.key not in value:
            raise KeyError(one.key)
    for key in value.keys() & hints.keys():
        hint, _ = _without_none(hints[key])
        read[key] = None if value[key] is None else convert(hint, value[key])
    return group(**read)


def words(settings: Any, *, without: Sequence[str] = ()) -> list[str]:
    """The options of a command that say what is not as by default.

    Args:
        settings: of a group of ``option``s.
        without: keys to leave out.
    """
    result: list[str] = []
    for one in described(type(settings)):
        value = getattr(settings, one.key)
        if one.key in without or not one.flags or value in (None, one.default):
            continue
        if one.hint is bool:
            result.append(one.name)
        else:
            for part in value if one.repeated else (value,):
                result += [one.name, as_text(part)]
    return result


def _by_name(kind: Any, value: Any) -> dict[str, Any]:
    """``{"lm_head": 8}``, or the same as text: ``lm_head:8,q_proj:4``."""
    if isinstance(value, str):
        pairs = []
        for item in filter(None, (part.strip() for part in value.split(","))):
            name, separator, number = item.rpartition(":")
            pairs.append((name.strip(), number) if separator else _reject(item))
        value = dict(pairs)
    if not isinstance(value, Mapping):
        _reject(value)
    return {str(name): convert(kind, number) for name, number in value.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, Path | StrEnum):
        return str(value)
    return list(value) if isinstance(value, tuple) else value


def _without_none(hint: Any) -> tuple[Any, bool]:
    """``X`` of ``X | None``, and whether None was there."""
    if get_origin(hint) not in (Union, UnionType):
        return hint, False
    (one,) = (item for item in get_args(hint) if item is not NoneType)
    return one, True


def _reject(value: Any) -> NoReturn:
    raise TypeError(value)
