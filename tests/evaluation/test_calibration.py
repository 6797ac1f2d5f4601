"""Calibration against its definition, and thresholds against a search over all."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import f1_score

from ecellm_mlx.errors import DataError
from ecellm_mlx.evaluation.calibration import calibration, choose_threshold

pytestmark = pytest.mark.unit

ROWS = st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=40)


def test_known_values() -> None:
    result = calibration([0.95, 0.91, 0.65, 0.61], [True, False, True, True])
    # Two bins: |0.5 - 0.93| and |1 - 0.63|, two answers each.
    assert result.ece == pytest.approx((0.43 + 0.37) / 2)
    assert result.mce == pytest.approx(0.43)
    assert [(b.low, b.high, b.count) for b in result.bins] == [
        (pytest.approx(0.6), pytest.approx(0.7), 2),
        (pytest.approx(0.9), pytest.approx(1.0), 2),
    ]


def test_honest_probabilities_are_calibrated() -> None:
    rng = np.random.default_rng(0)
    confidences = rng.random(40_000)
    correct = rng.random(40_000) < confidences
    assert calibration(confidences.tolist(), correct.tolist()).ece < 0.02
    assert calibration([1.0] * 4, [True] * 4).ece == 0


@given(rows=ROWS)
def test_every_answer_is_in_one_bin(rows: list[tuple[float, bool]]) -> None:
    result = calibration([p for p, _ in rows], [c for _, c in rows])
    assert sum(b.count for b in result.bins) == len(rows)
    assert 0 <= result.ece <= result.mce + 1e-12 <= 1 + 1e-12
    for b in result.bins:
        assert b.low <= b.confidence <= b.high + 1e-9


@settings(max_examples=30, deadline=None)
@given(rows=ROWS.filter(lambda rows: any(label for _, label in rows)))
def test_no_threshold_is_better(rows: list[tuple[float, bool]]) -> None:
    yes, labels = [p for p, _ in rows], [label for _, label in rows]
    chosen = choose_threshold(yes, labels)

    def f1(value: float) -> float:
        return float(f1_score(labels, [p >= value for p in yes], zero_division=0.0))

    assert chosen.f1 == pytest.approx(f1(chosen.value))
    assert chosen.f1_even == pytest.approx(f1(0.5))
    for value in [*yes, *np.linspace(0, 1, 21)]:
        assert f1(float(value)) <= chosen.f1 + 1e-9
    assert [chosen.answer(p) == "yes" for p in yes] == [p >= chosen.value for p in yes]


def test_wrong_input_is_named() -> None:
    with pytest.raises(DataError, match="no row's answer is yes"):
        choose_threshold([0.3], [False])
    with pytest.raises(DataError, match="no probabilities"):
        calibration([], [])
    with pytest.raises(DataError, match="2 and 1"):
        calibration([0.1, 0.2], [True])
    with pytest.raises(DataError, match="outside of 0 to 1"):
        calibration([1.5], [True])
