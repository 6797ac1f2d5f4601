"""Canonical values come from rules, and from nothing else."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ecellm_mlx.catalog.canonical import canonical, tables


@pytest.mark.parametrize(
    ("attribute", "value", "expected"),
    [
        ("voltage", "110V", "110 V"),
        ("voltage", "110 volts", "110 V"),
        ("voltage", "0.11 kV", "110 V"),
        ("power", "1.5 kW", "1.5 kW"),
        ("power", "1500 watt", "1.5 kW"),
        ("power", "1,5 kW", "1.5 kW"),
        ("power", "750 W", "750 W"),
        ("power", "1,234.5 W", "1.2345 kW"),
        ("power", "1.234,5 W", "1.2345 kW"),
        ("width", "0.3 m", "30 cm"),
        ("width", "12 inches", "30.48 cm"),
        ("width", '19"', "48.26 cm"),
        ("size", "10 x 20 x 30 cm", "10 × 20 × 30 cm"),
        ("size", "100×200mm", "10 × 20 cm"),
        ("weight", "1 lb", "453.592 g"),
        ("volume", "500-ml", "500 ml"),
        ("volume", "16 fl. oz.", "473.176 ml"),
        ("storage", "1000 GB", "1 TB"),
        ("battery", "5 Ah", "5000 mAh"),
        ("Color", "RED", "red"),
        ("Farbe", "Weiß", "white"),
        ("color name", "navy-blue", "navy"),
        ("colour", "Grey", "gray"),
        ("Material", "Edelstahl", "stainless steel"),
        ("shoe size", "X-Large", "XL"),
        # No rule, or two readings.
        ("power", "1,500 watt", ""),
        ("power", "1.2.34 W", ""),
        ("decor", "red", ""),
        ("color", "sunset glow", ""),
        ("resolution", "300 dpi", ""),
        ("brand", "3M", ""),
        ("width", "wide", ""),
        ("width", "30", ""),
        ("width", "", ""),
    ],
)
def test_a_value_has_one_spelling(attribute: str, value: str, expected: str) -> None:
    assert canonical(attribute, value) == expected


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(sorted(tables().units)), st.integers(1, 99_999))
def test_a_canonical_quantity_stays_as_it_is(word: str, number: int) -> None:
    once = canonical("size", f"{number} {word}")
    assert not once or canonical("size", once) == once


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=20), st.text(max_size=20))
def test_any_text_has_a_value_or_none(attribute: str, value: str) -> None:
    assert isinstance(canonical(attribute, value), str)
