"""Settings: declared once, checked together, and the same in files, options and pages."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest

from ecellm_mlx import settings
from ecellm_mlx.cli import reference
from ecellm_mlx.settings import option, setting

pytestmark = pytest.mark.unit

DOCS = Path(__file__).parents[1] / "docs"


@dataclass(frozen=True, kw_only=True)
class Example:
    """One setting of each type."""

    model: str = option(settings.MISSING, "who answers", "--model", "-m")
    tasks: tuple[str, ...] = option((), "only these", "--task")
    kinds: tuple[Literal["a", "b"], ...] = option((), "which of two", "--kind")
    limit: int | None = option(None, "at most so many", at_least=1)
    below: float | None = option(None, "least", noun="confidence", above=0, at_most=1)
    band: tuple[float, float] | None = option(
        None, "between", noun="probability", at_least=0, at_most=1, example="0.3,0.7"
    )
    out: Path | None = option(None, "where to")
    strict: bool = option(False, "refuse")
    resume: bool = option(False, "go on", kept=False)
    api: Literal["completions", "chat"] = option("completions", "which interface")
    scale: float = setting(1.0, "no option", above=0)
    number: int = 0  # is no setting


EXAMPLE = Example(
    model="m",
    tasks=("PM", "SA"),
    kinds=("b",),
    limit=3,
    below=0.5,
    band=(0.25, 0.5),
    out=Path("/x"),
    strict=True,
    api="chat",
    scale=2.0,
    number=7,
)


def test_json_and_back() -> None:
    value = settings.to_json(EXAMPLE)
    assert (value["tasks"], value["band"], value["out"]) == (["PM", "SA"], [0.25, 0.5], "/x")
    assert "resume" not in value
    assert settings.from_json(Example, {**value, "of_a_later_version": 1}) == EXAMPLE
    assert settings.from_json(Example, {"model": "m", "limit": None}) == Example(model="m")
    with pytest.raises(KeyError, match="model"):
        settings.from_json(Example, {"limit": 1})
    with pytest.raises(TypeError):
        settings.from_json(Example, {"model": "m", "limit": 0.5})


def test_texts_and_back() -> None:
    texts = {
        one.key: settings.as_text(getattr(EXAMPLE, one.key))
        for one in settings.described(Example)
    }
    parsed, wrong = settings.parse(Example, texts)
    assert not wrong
    assert Example(**parsed, number=7) == EXAMPLE


def test_words_say_what_is_not_as_by_default() -> None:
    assert settings.words(Example(model="m")) == ["--model", "m"]
    assert settings.words(EXAMPLE, without=["model"]) == [
        "--task", "PM", "--task", "SA", "--kind", "b", "--limit", "3", "--below", "0.5",
        "--band", "0.25,0.5", "--out", "/x", "--strict", "--api", "chat",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"limit": 0}, "--limit must be at least 1, not 0"),
        ({"scale": -1.0}, "scale must be positive, not -1.0"),
        ({"scale": float("inf")}, "scale must be a finite number, not inf"),
        ({"api": "soap"}, "--api soap is unknown: expected completions or chat"),
        ({"kinds": ("a", "c")}, "--kind c is unknown: expected a or b"),
        ({"below": 7.0}, "--below is no confidence: expected 0 to 1, got 7.0"),
        ({"band": (0.2, 7.0)}, "--band is no probability: expected 0 to 1, got 0.2,7.0"),
    ],
)
def test_what_is_out_of_bounds_is_said(changed: dict[str, object], sentence: str) -> None:
    assert list(settings.problems(Example(model="m", **changed))) == [sentence]  # type: ignore[arg-type]


def test_what_cannot_be_read_is_said_together() -> None:
    _, wrong = settings.parse(Example, {"limit": "much", "band": "wide", "scale": "x", "no": 1})
    assert [part.partition(":")[0] for part in wrong] == [
        "--limit much is no whole number",
        "--band wide is no probability",
        "scale='x' is not a number",
        "unknown setting 'no' (known",
    ]
    assert "expected 2 numbers such as 0.3,0.7" in wrong[1]


@pytest.mark.parametrize("name", list(reference.PAGES))
def test_the_reference_pages_are_current(name: str) -> None:
    text = (DOCS / name).read_text(encoding="utf-8")
    assert reference.updated(name, text) == text, (
        "run `python -m ecellm_mlx.cli.reference docs`"
    )
