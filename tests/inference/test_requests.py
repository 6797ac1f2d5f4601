"""Inputs are shortened without losing their structure; answers tokenize as they follow."""

from __future__ import annotations

import ast
import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ecellm_mlx import sample
from ecellm_mlx.data import prompts
from ecellm_mlx.data import rows as rows_module
from ecellm_mlx.inference.requests import MIN_CHARACTERS, Reader, shortened
from ecellm_mlx.models import loading

VALUES = st.recursive(
    st.text(max_size=40) | st.just(float("nan")) | st.integers(),
    lambda inner: st.lists(inner, max_size=4),
    max_leaves=8,
)


@settings(max_examples=60, deadline=None)
@given(
    value=st.dictionaries(st.text(min_size=1, max_size=6), VALUES, min_size=1, max_size=4),
    characters=st.integers(0, 120),
)
def test_objects_keep_their_keys_and_attributes(value: dict, characters: int) -> None:
    value = {**value, "target attributes": "Brand and Color and Size and Material"}
    text = json.dumps(value)
    short = json.loads(shortened(text, characters))
    assert list(short) == list(value)
    assert short["target attributes"] == value["target attributes"]
    assert len(shortened(text, characters)) <= len(text)

    def check(before: object, after: object) -> None:
        if isinstance(before, str):
            assert isinstance(after, str)
            assert before.startswith(after)
            assert len(after) >= min(len(before.rstrip()), 1) or not before[:8].strip()
        elif isinstance(before, list):
            assert isinstance(after, list)
            assert len(before) == len(after)
            for old, new in zip(before, after, strict=True):
                check(old, new)
        else:
            assert repr(before) == repr(after)

    for key in value:
        check(value[key], short[key])


def test_other_inputs() -> None:
    history = str([f"{n}th: item {'x' * 50}" for n in range(30)])
    items = ast.literal_eval(shortened(history, 600))
    assert len(items) == 30
    assert items[29].startswith("29th: item")
    assert shortened("a review of some length", 10) == "a review o"
    assert shortened("short", 0) == "short"
    assert len(shortened("x" * 100, 0)) == MIN_CHARACTERS
    assert shortened("[" * 5000, 20) == "[" * 20


@pytest.mark.parametrize("task", ["PM", "AVE", "QPR", "SA"])
def test_a_prompt_fits_exactly_and_keeps_what_asks(task: str, tiny: Path) -> None:
    base = loading.load(tiny)
    row = rows_module.load(sample.folder() / "test.jsonl", tasks=[task])[0]
    warnings: list[str] = []
    whole = Reader(base).request(row)
    longest = max((len(o.tokens) for o in whole.options), default=whole.task.max_new_tokens)
    limit = len(whole.prompt) + longest
    assert Reader(base, max_context=limit, warn=warnings.append).request(row) == whole
    assert not warnings
    short = Reader(base, max_context=limit - 15, warn=warnings.append).request(row)
    assert len(short.prompt) + longest <= limit - 15
    assert row.id in warnings[0]
    assert replace(short.row, input="") == replace(row, input="")
    assert short.options == whole.options
    if task == "QPR":
        ranking = short.task.kind
        assert ranking.options(short.row) == ranking.options(row)


def test_answers_are_the_tokens_that_follow_a_prompt(
    tiny_models: dict[str, Path],
) -> None:
    for path in tiny_models.values():
        base = loading.load(path)
        row = rows_module.load(sample.folder() / "test.jsonl", tasks=["SA"])[0]
        text = prompts.prompt(row, base.frame)
        for answer in ("yes", "B: positive", "A,C,B", "größe 🦋"):
            tokens = Reader(base).answer_tokens(answer)
            prompt = base.tokenizer.encode(text)
            assert base.tokenizer.encode(text + answer) == [*prompt, *tokens]
