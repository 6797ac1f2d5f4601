"""Words and model together: fitted to known matches, judged on others, best of three."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from ecellm_mlx.errors import DataError
from ecellm_mlx.matching import blending
from ecellm_mlx.matching import known as knowns
from ecellm_mlx.matching.candidates import Candidate, candidates
from ecellm_mlx.matching.known import Known
from ecellm_mlx.matching.pairs import price_of

from .conftest import side_of

pytestmark = pytest.mark.unit


@pytest.fixture
def found(amazon: Path, google: Path) -> list[Candidate]:
    return candidates(side_of(amazon).texts(), side_of(google).texts(), top=5)


@pytest.fixture
def known(amazon: Path, google: Path, matches: Path) -> Known:
    return knowns.read(matches, side_of(amazon), side_of(google))


def said(found: list[Candidate], known: Known, skill: float) -> list[float | None]:
    """Probabilities of a model that knows the answer more or less well."""
    rng = np.random.default_rng(5)
    odds = [skill * (1 if known.label(c) else -1) + rng.normal() for c in found]
    return [float(1 / (1 + np.exp(-x))) for x in odds]


def test_features_of_a_small_example() -> None:
    found = [
        Candidate(0, 0, 0.9, 1), Candidate(0, 1, 0.5, 2), Candidate(1, 0, 0.4, 1),
        Candidate(2, 7, 0.3, 1),
    ]  # fmt: skip
    prices = [10.0, None, 1.0], [20.0, 10.0, *[None] * 5, 1e9]
    got = blending.features(found, [0.5, 0.5, None, 0.9], prices)
    nine, two = np.log(9), np.log(2)
    nan = np.nan
    expected = [
        [0.9, 0.4, 0.5, two, 1, 0.0, 0.0],
        [0.5, -0.4, 0.5, 0, 1, 0.0, 0.0],
        [0.4, 0.4, -0.5, 0, 0, nan, nan],
        [0.3, 0.3, 0.3, 3, 1, nine, nine],
    ]
    np.testing.assert_allclose(got, expected, atol=1e-12)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("599.99", 599.99), ("40.42 gbp", 40.42), ("1.299,00 €", 1299.0), ("$1,299", 1299.0),
        ("EUR 12,5", 12.5), ("1,299.5", 1299.5), ("5.", 5.0), ("0", None), ("", None),
        ("free", None), ("1.234.567", 1234567.0),
    ],
)  # fmt: skip
def test_prices_as_shops_write_them(text: str, value: float | None) -> None:
    assert price_of(text) == value


def test_the_fit_is_scikit_learns(found: list[Candidate], known: Known) -> None:
    probabilities = said(found, known, 0.7)
    fitted = blending.fit(found, probabilities, known, only=blending.BOTH)
    # No prices here: their columns are constant.
    values = blending.features(found, probabilities)
    labelled = [i for i, c in enumerate(found) if c.left in known.rights]
    model = make_pipeline(StandardScaler(), LogisticRegression())
    model.fit(values[labelled], [bool(known.label(found[i])) for i in labelled])
    expected = model.predict_proba(values)[:, 1]
    np.testing.assert_allclose(np.array(fitted.probabilities), expected, atol=1e-6)


@pytest.mark.parametrize("one_to_one", [False, True])
def test_a_model_that_helps_is_used_and_one_that_does_not_is_not(
    found: list[Candidate], known: Known, one_to_one: bool
) -> None:
    # Words that say less than they do here, as between shops of two languages.
    rng = np.random.default_rng(2)
    vague = [replace(c, similarity=0.2 * c.similarity + float(rng.uniform())) for c in found]
    good = blending.fit(vague, said(found, known, 3.0), known, one_to_one=one_to_one)
    assert good.used == blending.BOTH or good.used == blending.MODEL
    assert good.quality[good.used].f1 > good.quality[blending.WORDS].f1 + 0.1
    # What knows nothing is not used, even where chance is with it.
    bad = blending.fit(found, said(found, known, 0.0), known, one_to_one=one_to_one)
    assert bad.quality[blending.WORDS].f1 > bad.quality[blending.MODEL].f1
    assert bad.used == blending.WORDS
    alone = blending.fit(found, None, known, one_to_one=one_to_one)
    assert alone.used == blending.WORDS
    assert alone.quality[blending.WORDS] == bad.quality[blending.WORDS]


def test_quality_is_of_pairs_that_were_not_fitted_to(
    found: list[Candidate], known: Known
) -> None:
    fitted = blending.fit(found, None, known)
    quality = fitted.quality[blending.WORDS]
    hits = sum(known.label(c) is True for c in found)
    # A match that blocking missed cannot be found by any threshold.
    assert quality.recall <= hits / known.matches
    assert quality.f1 == pytest.approx(
        2 * quality.precision * quality.recall / (quality.precision + quality.recall)
    )
    assert 0 < quality.threshold < 1
    # Labels in disorder leave nothing to learn, and it shows.
    rights = list(known.rights.values())
    wrong = Known(dict(zip(known.rights, [*rights[7:], *rights[:7]], strict=True)), {}, {})
    assert blending.fit(found, None, wrong).quality[blending.WORDS].f1 < quality.f1 / 2


def test_a_pair_that_could_not_be_asked_is_decided_by_words_or_not_at_all(
    found: list[Candidate], known: Known
) -> None:
    probabilities = said(found, known, 3.0)
    probabilities[3] = None
    both = blending.fit(found, probabilities, known, only=blending.BOTH)
    assert both.probabilities[3] is None
    assert sum(p is None for p in both.probabilities) == 1
    words = blending.fit(found, probabilities, known, only=blending.WORDS)
    assert None not in words.probabilities


def test_too_little_is_a_sentence(found: list[Candidate], known: Known) -> None:
    with pytest.raises(DataError, match="too few matches are known to fit to"):
        blending.fit(found, None, known.only(list(known.rights)[:5]))
    none = Known(dict.fromkeys(known.rights, frozenset[int]()), {}, {})
    with pytest.raises(DataError, match="candidates of one kind only"):
        blending.fit(found, None, none)
