"""Attribute lists are valid JSON whatever the model says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from llguidance import LLMatcher
from llguidance.hf import from_tokenizer

from ecellm_mlx.data.rows import Row
from ecellm_mlx.errors import DataError
from ecellm_mlx.inference.grammar import Grammar
from ecellm_mlx.models.tokenizer import load_tokenizer
from ecellm_mlx.tasks.attribute_lists import attribute_list_grammar
from ecellm_mlx.tasks.extraction import Extraction
from ecellm_mlx.tasks.values import Values

VOCAB = 49152


@pytest.fixture(scope="module")
def tokenizer(smollm2: Path) -> Any:
    return load_tokenizer(smollm2)


@pytest.fixture(scope="module")
def grammar(smollm2: Path) -> Grammar:
    return Grammar(load_tokenizer(smollm2), VOCAB)


@settings(
    max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    attributes=st.lists(
        st.sampled_from(["brand", 'pack "size"', "größe", "a\\b", "item form"]),
        min_size=1, max_size=3, unique=True,
    ),
    seed=st.integers(0, 10_000),
)  # fmt: skip
def test_always_valid_and_complete(
    grammar: Grammar, tokenizer: Any, attributes: list[str], seed: int
) -> None:
    rng = np.random.default_rng(seed)
    matcher = grammar.matcher(attribute_list_grammar(attributes, ["product title", "x"]))
    tokens = matcher.forced()
    choose = matcher.chooser(end=2)
    for _ in range(1000):
        tokens += choose(rng.normal(size=VOCAB).astype(np.float32))
        if tokens[-1] == 2:
            break
    answer = json.loads(tokenizer.decode(tokens[:-1]))
    assert list(dict.fromkeys(item["attribute"] for item in answer)) == attributes
    for item in answer:
        assert set(item) == {"attribute", "value", "source"}
        assert item["source"] in ("product title", "x", "None")


def test_a_json_schema_cannot_say_it(tokenizer: Any) -> None:
    """Why there is a grammar: a schema of the same list lets an attribute be left out."""

    def entry(name: str) -> dict[str, Any]:
        texts = {"attribute": {"const": name}, "value": {"type": "string"}}
        return {"type": "object", "properties": texts, "required": list(texts)}

    names = ["brand", "color"]
    schema = {"type": "array", "items": {"anyOf": list(map(entry, names))}, "minItems": 2}
    answer = json.dumps([{"attribute": "color", "value": "red"}] * 2)
    tokens = tokenizer.encode(answer, add_special_tokens=False)
    wrapped = from_tokenizer(tokenizer, n_vocab=VOCAB)

    def matcher(schema: dict[str, Any]) -> Any:
        text = LLMatcher.grammar_from_json_schema(schema)
        return LLMatcher(wrapped, text, log_level=0)

    assert matcher(schema).validate_tokens(tokens) == len(tokens)
    contains = [{"contains": {"properties": {"attribute": {"const": n}}}} for n in names]
    assert (
        'Unimplemented keys: ["contains"]' in matcher({**schema, "allOf": contains}).get_error()
    )


def row(value: str) -> Row:
    return Row(
        "r", "i", value, None, "", "Attribute_Value_Extraction", "own", "test", None, None
    )


def test_slots_come_from_the_input() -> None:
    value = {"product title": "x", "target attributes": "Brand, Pack size and Item form"}
    assert Extraction().slots(row(json.dumps(value))) == (
        ["brand", "pack size", "item form"],
        {"product title": "x"},
    )
    with pytest.raises(DataError, match="target attributes"):
        Extraction().slots(row('{"product title": "x"}'))
    with pytest.raises(DataError, match="no JSON object"):
        Extraction().slots(row("just text"))


TITLES = st.text(
    st.characters(codec="utf-8", exclude_categories=["Cs"]) | st.sampled_from('"\\{}[]:,\n🦋'),
    min_size=1,
    max_size=40,
)


@settings(
    max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(title=TITLES, text=TITLES, seed=st.integers(0, 10_000))
def test_values_from_their_source_are_pieces_of_it(
    grammar: Grammar, tokenizer: Any, title: str, text: str, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    sources = {"product title": title, 'field "2"': text}
    matcher = grammar.matcher(attribute_list_grammar(["brand"], sources, Values.SOURCE))
    tokens = matcher.forced()
    choose = matcher.chooser(end=2)
    while not tokens or tokens[-1] != 2:
        tokens += choose(rng.normal(size=VOCAB).astype(np.float32))
        assert len(tokens) < 1000
    for item in json.loads(tokenizer.decode(tokens[:-1])):
        if item["source"] == "None":
            assert item["value"] == "None"
            continue
        source = sources[item["source"]]
        assert item["value"]
        assert any(is_whole(item["value"], text) for text in (source, source.lower()))


def is_whole(value: str, text: str) -> bool:
    """Whether ``value`` is in ``text``, and no word or number goes on at its ends."""
    if value not in text:
        return False
    if max(map(len, text.split()), default=0) >= 80:
        return True
    kinds = {True: "d", False: "a"}
    place = text.find(value)
    while place >= 0:
        ends = (text[place - 1 : place + 1], text[place + len(value) - 1 :][:2])
        if all(
            len(pair) < 2 or not pair.isalnum() or len({kinds[c.isdigit()] for c in pair}) == 2
            for pair in ends
        ):
            return True
        place = text.find(value, place + 1)
    return False


def test_a_word_too_long_for_a_value_is_given_in_part(grammar: Grammar, tokenizer: Any) -> None:
    title = "x" * 300
    matcher = grammar.matcher(
        attribute_list_grammar(["brand"], {"product title": title}, Values.SOURCE)
    )
    tokens = matcher.forced()
    choose = matcher.chooser(end=2)
    rng = np.random.default_rng(1)
    while not tokens or tokens[-1] != 2:
        tokens += choose(rng.normal(size=VOCAB).astype(np.float32))
    assert all(
        i["value"] in (title, "None") or i["value"] in title
        for i in json.loads(tokenizer.decode(tokens[:-1]))
    )


def test_what_is_forced_costs_no_choice(grammar: Grammar, tokenizer: Any) -> None:
    lark = attribute_list_grammar(["brand"], {"product title": "Acme"}, Values.SOURCE)
    matcher = grammar.matcher(lark)
    head = tokenizer.decode(matcher.forced())
    assert head.startswith('[{"attribute": "brand", "value":')
    with pytest.raises(ValueError, match="texts of the sources"):
        attribute_list_grammar(["brand"], ["product title"], Values.SOURCE)
