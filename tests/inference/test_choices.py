"""Option probabilities: what decoding under the options' own grammar would give."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ecellm_mlx.inference import choices

END = 0
OPTIONS = st.lists(
    st.lists(st.integers(1, 4), min_size=1, max_size=5).map(tuple),
    min_size=1,
    max_size=8,
    unique=True,
)


@given(options=OPTIONS, seed=st.integers(0, 1000))
def test_probabilities_equal_constrained_decoding(
    options: list[tuple[int, ...]], seed: int
) -> None:
    def logits_after(path: tuple[int, ...]) -> np.ndarray:
        return np.random.default_rng([seed, *path]).normal(size=5).astype(np.float32)

    tree = choices.branches(options, END)
    got = choices.probabilities(len(options), tree, [logits_after(b.path) for b in tree])

    def brute(option: tuple[int, ...]) -> float:
        value = 1.0
        for place, token in enumerate((*option, END)):
            path = option[:place]
            alive = [o for o in options if o[:place] == path]
            allowed = {o[place] if place < len(o) else END for o in alive}
            weights = {t: math.exp(float(logits_after(path)[t])) for t in allowed}
            value *= weights[token] / sum(weights.values())
        return value

    assert got == pytest.approx([brute(option) for option in options], rel=1e-5)
    assert sum(got) == pytest.approx(1)


def test_options_that_differ_at_once_need_one_look() -> None:
    tree = choices.branches([(1, 9, 9), (2, 9), (3,)], END)
    assert [branch.path for branch in tree] == [()]
