"""How likely a pair is a match, from words and prices and from the model together.

The catalogs' own data and the model are wrong about different pairs. Where some matches are
known, a logistic regression on both is fitted to them, and so is one on each alone. They
are judged by F1 on pairs that the fit has not seen (cross-validation by whole products),
each with the threshold that is best for it. Words and prices decide unless one with the
model is better by more than two standard errors of the difference: what adds nothing is not
used, and is said to add nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ecellm_mlx.errors import DataError
from ecellm_mlx.matching.candidates import Candidate
from ecellm_mlx.matching.known import Known
from ecellm_mlx.matching.pairs import accepted

FOLDS = 5
LEAST_PRODUCTS = 20
BOUND = 1e-4
LEVELS = 64
RESAMPLES = 200
# Standard errors that a gain must exceed, or it may be chance.
SURE = 2.0
# The features of each scorer: see ``features``.
WORDS, MODEL, BOTH = "words and prices", "model", "all together"
SCORERS = {WORDS: (0, 1, 2, 3, 4), MODEL: (5, 6), BOTH: (0, 1, 2, 3, 4, 5, 6)}
# Log ratios beyond this are of another unit or currency, or of another product anyway.
MOST_GAP = 3.0

Prices = tuple[Sequence[float | None], Sequence[float | None]]


@dataclass(frozen=True)
class Quality:
    """What decisions at ``threshold`` are worth; a match that blocking misses is missed."""

    f1: float
    precision: float
    recall: float
    threshold: float

    def to_json(self) -> dict[str, float]:
        """As JSON values."""
        return asdict(self)


@dataclass(frozen=True)
class Blend:
    """A fitted scorer.

    Attributes:
        used: its name in ``SCORERS``.
        quality: of each scorer that could be fitted, by cross-validation.
        products, matches: the known ones that it was fitted to.
        unmatched: how many of the products are known to have no match.
        probabilities: of each candidate, 0-1; None where the model could not be asked and
            is needed.
    """

    used: str
    quality: dict[str, Quality]
    products: int
    matches: int
    unmatched: int
    probabilities: list[float | None]

    @property
    def threshold(self) -> float:
        """The least probability of a match."""
        return self.quality[self.used].threshold

    def to_json(self) -> dict[str, Any]:
        """As JSON values, without the probabilities."""
        return {
            "used": self.used,
            "products": self.products,
            "matches": self.matches,
            "unmatched": self.unmatched,
            "quality": {name: quality.to_json() for name, quality in self.quality.items()},
        }


def features(
    pairs: Sequence[Candidate],
    probabilities: Sequence[float | None] | None,
    prices: Prices | None = None,
) -> np.ndarray:
    """What a candidate is judged by; NaN where the model was not, or could not be, asked.

    Returns:
        (candidates, 7): similarity; its lead over the best other candidate of the same left
        product; the same among the candidates that share the right product; the size of the
        log ratio of the prices, 0 where one is missing; whether both are there; the model's
        log odds of a match; and their lead over the left product's other candidates.
    """
    similarity = np.array([pair.similarity for pair in pairs])
    lefts = [pair.left for pair in pairs]
    odds = np.full(len(pairs), np.nan)
    for place, probability in enumerate(probabilities or ()):
        if probability is not None:
            bounded = min(max(probability, BOUND), 1 - BOUND)
            odds[place] = np.log(bounded / (1 - bounded))
    return np.column_stack(
        [
            similarity,
            _lead(similarity, lefts),
            _lead(similarity, [pair.right for pair in pairs]),
            *_price_gaps(pairs, prices),
            odds,
            _lead(odds, lefts),
        ]
    )


def fit(
    pairs: Sequence[Candidate],
    probabilities: Sequence[float | None] | None,
    known: Known,
    *,
    prices: Prices | None = None,
    one_to_one: bool = False,
    only: str | None = None,
) -> Blend:
    """Fit the scorers to known matches and choose the best, or take ``only`` that one.

    Args:
        pairs: all candidates, known and not.
        probabilities: the model's, of each being a match; None without a model.
        known: matches that the model was not trained on.
        prices: of the left and of the right products, where they have any.
        one_to_one: how it will be decided; see ``pairs.accepted``.
        only: a name in ``SCORERS``.

    Raises:
        DataError: too little is known.
    """
    check(known)
    values = features(pairs, probabilities, prices)
    labels = [known.label(pair) for pair in pairs]
    if True not in labels or False not in labels:
        raise DataError(
            "the known matches cannot be fitted to",
            got="candidates of one kind only",
            expected="matches and near misses",
            cure="propose more candidates with --top, or leave --truth out",
        )
    truth = np.array([label is True for label in labels])
    folds = _folds(pairs, known)
    names = [only] if only else list(SCORERS) if probabilities is not None else [WORDS]
    quality: dict[str, Quality] = {}
    counts: dict[str, np.ndarray] = {}
    scores: dict[str, np.ndarray] = {}
    for name in names:
        columns = values[:, SCORERS[name]]
        usable = ~np.isnan(columns).any(axis=1)
        unseen = np.full(len(pairs), np.nan)
        for fold in range(FOLDS):
            fitted = usable & (folds >= 0) & (folds != fold)
            asked = usable & (folds == fold)
            if asked.any():
                unseen[asked] = _predict(columns[fitted], truth[fitted], columns[asked])
        quality[name], chosen = _best(pairs, unseen, truth, known.matches, one_to_one)
        counts[name] = _counts(chosen, known)
        score = np.full(len(pairs), np.nan)
        taken = usable & (folds >= 0)
        score[usable] = _predict(columns[taken], truth[taken], columns[usable])
        scores[name] = score
    used = names[0]
    for name in names[1:]:
        gain = quality[name].f1 - quality[used].f1
        if gain > SURE * _standard_error(counts[name], counts[used]):
            used = name
    return Blend(
        used,
        quality,
        len(known.rights),
        known.matches,
        sum(not rights for rights in known.rights.values()),
        [None if np.isnan(score) else float(score) for score in scores[used]],
    )


def check(known: Known) -> None:
    """Refuse known matches that are too few, before a model works for nothing.

    Raises:
        DataError: they are.
    """
    if len(known.rights) < LEAST_PRODUCTS:
        raise DataError(
            "too few matches are known to fit to",
            got=f"{len(known.rights)} left products",
            expected=f"at least {LEAST_PRODUCTS}",
            cure="give more known matches, or leave --truth out",
        )


def _price_gaps(pairs: Sequence[Candidate], prices: Prices | None) -> np.ndarray:
    """Size of the log ratio of a pair's prices, and whether it has both: (2, candidates)."""
    gaps = np.zeros((2, len(pairs)))
    for place, pair in enumerate(pairs if prices else ()):
        assert prices
        left, right = prices[0][pair.left], prices[1][pair.right]
        if left and right:
            gaps[:, place] = min(abs(np.log(left / right)), MOST_GAP), 1.0
    return gaps


def _lead(values: np.ndarray, groups: Sequence[int]) -> np.ndarray:
    """Each value minus the largest other one of its group; minus 0 where it is alone."""
    members: dict[int, list[int]] = {}
    for place, group in enumerate(groups):
        if not np.isnan(values[place]):
            members.setdefault(group, []).append(place)
    lead = values.copy()
    for places in members.values():
        if len(places) == 1:
            continue
        ordered = sorted((float(values[place]) for place in places), reverse=True)
        for place in places:
            own = float(values[place])
            lead[place] = own - (ordered[1] if own == ordered[0] else ordered[0])
    return lead


def _folds(pairs: Sequence[Candidate], known: Known) -> np.ndarray:
    """The fold of each candidate, -1 where nothing is known; products are never divided."""
    fold_of = {
        left: number % FOLDS for number, group in enumerate(known.groups()) for left in group
    }
    return np.array([fold_of.get(pair.left, -1) for pair in pairs])


def _predict(values: np.ndarray, truth: np.ndarray, asked: np.ndarray) -> np.ndarray:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    if truth.all() or not truth.any():
        return np.full(len(asked), truth.mean() if len(truth) else 0.5)
    regression = make_pipeline(StandardScaler(), LogisticRegression(C=1.0)).fit(values, truth)
    likely: np.ndarray = regression.predict_proba(asked)[:, 1]
    return likely


def _best(
    pairs: Sequence[Candidate],
    scores: np.ndarray,
    truth: np.ndarray,
    matches: int,
    one_to_one: bool,
) -> tuple[Quality, list[Candidate]]:
    """The decisions with the greatest F1, their threshold midway between two scores."""
    places = np.flatnonzero(~np.isnan(scores)).tolist()
    candidates = [pairs[place] for place in places]
    probabilities = [float(scores[place]) for place in places]
    levels = np.unique(probabilities)
    middles = (levels[1:] + levels[:-1]) / 2
    if one_to_one and len(middles) > LEVELS:
        # An assignment for each would take long.
        middles = middles[np.linspace(0, len(middles) - 1, LEVELS).round().astype(int)]
    best, accepted_pairs = Quality(-1.0, 0.0, 0.0, 1.0), []
    for threshold in (float(levels[0]) / 2, *map(float, middles)):
        chosen = accepted(candidates, probabilities, threshold=threshold, one_to_one=one_to_one)
        hits = int(truth[[places[i] for i in chosen]].sum())
        f1 = 2 * hits / (len(chosen) + matches)
        if f1 > best.f1:
            accepted_pairs = [candidates[i] for i in chosen]
            best = Quality(f1, hits / max(len(chosen), 1), hits / matches, threshold)
    return best, accepted_pairs


def _counts(chosen: Sequence[Candidate], known: Known) -> np.ndarray:
    """Right decisions, decisions and known matches of each known product: (products, 3)."""
    said = Counter(pair.left for pair in chosen)
    right = Counter(pair.left for pair in chosen if known.label(pair))
    return np.array([(right[i], said[i], len(known.rights[i])) for i in known.rights])


def _standard_error(one: np.ndarray, other: np.ndarray) -> float:
    """Of the difference of two F1, by resampling products (bootstrap)."""
    weights = np.random.default_rng(0).multinomial(
        len(one), np.full(len(one), 1 / len(one)), size=RESAMPLES
    )
    f1 = []
    for counts in (one, other):
        right, said, known = (weights @ counts).T
        f1.append(2 * right / np.maximum(said + known, 1))
    return float(np.std(f1[0] - f1[1]))
