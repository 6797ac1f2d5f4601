"""Intervals, paired comparison and breakdowns, on the rows of the sample."""

from __future__ import annotations

import json
import random
from typing import Any

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as sk

from ecellm_mlx.data import rows as rows_module
from ecellm_mlx.data.rows import Row
from ecellm_mlx.evaluation.details import details, worst
from ecellm_mlx.evaluation.metrics import score, tally
from ecellm_mlx.evaluation.resampling import compare, intervals, mcnemar
from ecellm_mlx.sample import folder
from ecellm_mlx.tasks.kind import Predicted
from ecellm_mlx.tasks.registry import TASKS, find

pytestmark = pytest.mark.unit

NOISE = ["yes", "no", "A", "B", "B,A", "[]", "?", "", "C: neutral"]


@pytest.fixture(scope="module")
def sample() -> dict[str, list[Row]]:
    """The rows of each task in one setting; half of the extraction rows are OOD."""
    found: dict[str, list[Row]] = {}
    for row in rows_module.load(folder() / "test.jsonl"):
        found.setdefault(row.task, []).append(row)
    return found


def noisy(rows: list[Row], share: float, seed: int = 0) -> list[str]:
    """The expected answers, some of them replaced."""
    rng = random.Random(seed)
    others = [row.output for row in rows]
    return [
        rng.choice([*NOISE, *rng.sample(others, 3)]) if rng.random() < share else row.output
        for row in rows
    ]


def lengths(answers: list[str], references: list[str]) -> np.ndarray:
    """A stand-in for BERTScore, which only has to be a number for each answer."""
    return np.array(
        [[len(a), len(r), 1 / (1 + len(a))] for a, r in zip(answers, references, strict=True)]
    )


@pytest.mark.parametrize("name", list(TASKS))
@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_sums_over_rows_make_the_same_metrics(
    sample: dict[str, list[Row]], name: str, share: float
) -> None:
    rows = sample.get(name) or made_rows(name)
    answers = noisy(rows, share)
    scored = score(name, answers, rows, text_scorer=lengths)
    for mode in ("official", "strict"):
        counted = tally(TASKS[name], Predicted(answers, rows, lengths), mode)
        assert counted is not None
        values = {k: v for k, v in scored[mode].items() if v is not None}
        assert values, "the sample has something to compare"
        assert {k: float(counted.values()[k]) for k in values} == pytest.approx(
            values, abs=1e-12
        )


OTHERS = {
    "text": ["It holds two litres.", "No."],
    "yes/no": ["yes", "no"],
    "choice": ["A", "B", "D"],
}


def made_rows(name: str) -> list[Row]:
    """Rows of a task that the sample has none of."""
    return [
        Row(str(n), "i", "x", None, output, name, "IND_Diverse_Instruction", "test")
        for n, output in enumerate(OTHERS[TASKS[name].kind.name] * 10)
    ]


def test_drawn_rows_score_as_if_they_were_listed(sample: dict[str, list[Row]]) -> None:
    rng = np.random.default_rng(1)
    for name, rows in sample.items():
        answers = noisy(rows, 0.4)
        weights = rng.multinomial(len(rows), [1 / len(rows)] * len(rows)).astype(float)
        again = [n for n, times in enumerate(weights) for _ in range(int(times))]
        expected = score(name, [answers[n] for n in again], [rows[n] for n in again])
        for mode in ("official", "strict"):
            counted = tally(TASKS[name], Predicted(answers, rows), mode)
            assert counted is not None
            found = {k: float(v) for k, v in counted.values(weights).items()}
            values = {k: v for k, v in expected[mode].items() if v is not None}
            assert {k: found[k] for k in values} == pytest.approx(values, abs=1e-12)


def test_intervals_hold_the_figure_and_follow_the_seed(sample: dict[str, list[Row]]) -> None:
    for name, rows in sample.items():
        task, answers = TASKS[name], noisy(rows, 0.4)
        found = intervals(task, answers, rows)
        assert found == intervals(task, answers, rows)
        assert found != intervals(task, answers, rows, seed=1)
        scored = score(task, answers, rows)
        for mode in ("official", "strict"):
            low, high = found[mode][task.metric]
            assert low <= scored[mode][task.metric] <= high
            assert low < high
    json.dumps(found, allow_nan=False)


def test_an_interval_is_as_wide_as_theory_says() -> None:
    rows, answers = coin(400, 0.7)
    low, high = intervals(find("SR"), answers, rows)["strict"]["recall@1"]
    half_width = 1.96 * (0.7 * 0.3 / 400) ** 0.5
    assert (high - low) / 2 == pytest.approx(half_width, rel=0.1)


@pytest.mark.proof
def test_intervals_equal_those_of_scipy_with_scikit_learn(
    sample: dict[str, list[Row]],
) -> None:
    """Rows drawn by SciPy, scored by scikit-learn from nothing but labels and answers."""
    for name, metric in (
        ("Product_Matching", lambda a, b: sk.f1_score(a, b, pos_label="yes", zero_division=0)),
        ("Sentiment_Analysis", lambda a, b: sk.f1_score(a, b, average="macro")),
    ):
        rows = sample[name]
        labels = np.array([row.output[:3] if name[0] == "P" else row.output[0] for row in rows])
        others = {"yes": "no", "no": "yes"}
        rng = random.Random(3)
        first, second = (
            np.array(
                [
                    (others.get(label) or rng.choice("ABCDE"))
                    if rng.random() < share
                    else label
                    for label in labels
                ]
            )
            for share in (0.5, 0.3)
        )

        def drawn(statistic: Any, count: int = len(rows)) -> Any:
            return stats.bootstrap(
                (np.arange(count),), statistic, method="percentile", n_resamples=1000,
                vectorized=False, rng=5,
            ).confidence_interval  # fmt: skip

        expected = drawn(lambda n, m=metric: m(labels[n], first[n]))  # noqa: B023
        low, high = intervals(TASKS[name], list(first), rows)["strict"]["f1"]
        assert (low, high) == pytest.approx((expected.low, expected.high), abs=0.03)
        difference = drawn(
            lambda n, m=metric: m(labels[n], second[n]) - m(labels[n], first[n])  # noqa: B023
        )
        found = compare(TASKS[name], list(first), list(second), rows)["strict"]
        expected = (difference.low, difference.high)
        assert (found["low"], found["high"]) == pytest.approx(expected, abs=0.03)


def test_p_says_how_often_chance_alone_would_do_it() -> None:
    """Of pairs that differ by chance, the share with p < 0.1 is about a tenth."""
    rng = np.random.default_rng(8)
    rows, _ = coin(80, 1)
    found = []
    for _ in range(200):
        a, b = (["A" if x else "B" for x in rng.random(80) < 0.6] for _ in "ab")
        found.append(compare(find("SR"), a, b, rows, draws=300)["strict"]["p"])
    assert 0.03 < np.mean(np.array(found) < 0.1) < 0.18


def test_what_cannot_be_computed_has_no_interval() -> None:
    rows = [Row("1", "i", "x", None, "B,A", find("QPR").name, "IND", "test")]
    assert intervals(find("QPR"), ["B,A"], rows) == {"official": {}, "strict": {}}
    yes = [Row("1", "i", "x", None, "yes", find("PM").name, "IND", "test")]
    found = intervals(find("PM"), ["?"], yes)
    assert found["official"] == {}
    assert found["strict"]["f1"] == [0, 0]


def coin(n: int, share: float) -> tuple[list[Row], list[str]]:
    """Recommendation rows of which ``share`` are answered right."""
    rows = [
        Row(str(i), "i", "x", None, "A", find("SR").name, "IND_Diverse_Instruction", "test")
        for i in range(n)
    ]
    return rows, ["A" if i < n * share else "B" for i in range(n)]


@pytest.mark.parametrize(("count", "least"), [(1, 1.0), (2, 0.5), (4, 0.125)])
def test_a_few_rows_prove_nothing(count: int, least: float) -> None:
    """However far apart two systems are on them: every draw then says the same."""
    rows, good = coin(count, 1.0)
    _, poor = coin(count, 0.0)
    result = compare(find("SR"), poor, good, rows)
    assert result["strict"]["difference"] == 1
    assert result["strict"]["p"] == least
    assert result["mcnemar"]["p"] == least


def test_a_real_difference_is_found_and_none_is_not() -> None:
    rows, good = coin(200, 0.8)
    _, poor = coin(200, 0.6)
    result = compare(find("SR"), poor, good, rows)
    assert (result["n"], result["metric"]) == (200, "recall@1")
    assert result["strict"]["difference"] == pytest.approx(0.2)
    assert result["strict"]["low"] > 0
    assert result["strict"]["p"] < 0.01
    assert result["mcnemar"] == {"only_a": 0, "only_b": 40, "p": pytest.approx(2 / 2**40)}
    same = compare(find("SR"), good, good, rows)
    assert same["strict"]["p"] == 1
    assert same["mcnemar"]["p"] == 1
    # As many rows each way: the same accuracy, on other rows.
    mirrored = compare(find("SR"), good, good[::-1], rows)
    assert mirrored["strict"]["low"] < 0 < mirrored["strict"]["high"]
    assert mirrored["mcnemar"]["only_a"] == mirrored["mcnemar"]["only_b"] > 0


def test_pairing_is_sharper_than_two_intervals() -> None:
    rows, poor = coin(100, 0.5)
    better = ["A" if n < 56 else "B" for n in range(100)]
    result = compare(find("SR"), poor, better, rows)["strict"]
    assert result["low"] > 0
    apart = [intervals(find("SR"), a, rows)["strict"]["recall@1"] for a in (poor, better)]
    assert apart[0][1] > apart[1][0], "the intervals themselves overlap"


@pytest.mark.parametrize(("b", "c"), [(0, 0), (3, 9), (9, 3), (5, 5), (1, 0), (40, 61)])
def test_mcnemar_equals_the_binomial_test(b: int, c: int) -> None:
    expected = stats.binomtest(min(b, c), b + c, 0.5).pvalue if b + c else 1.0
    assert mcnemar(b, c) == pytest.approx(expected)


def test_mcnemar_of_many_rows_does_not_overflow() -> None:
    assert mcnemar(1000, 3000) < 1e-100


def test_confusion_counts_every_row_once(sample: dict[str, list[Row]]) -> None:
    rows = sample["Sentiment_Analysis"]
    answers = ["?", *noisy(rows[1:], 0.5)]
    matrix = find("SA").kind.details(Predicted(answers, rows))["confusion"]
    assert matrix["answers"] == [*matrix["labels"], "invalid"]
    counts = np.array(matrix["counts"])
    assert counts.sum() == len(rows)
    scored = score("SA", answers, rows)
    assert counts[:, -1].sum() == scored["invalid"] > 0
    assert np.trace(counts[:, :-1]) / len(rows) == pytest.approx(scored["strict"]["acc"])
    assert find("SR").kind.details(Predicted(["A"], coin(1, 1)[0])) == {}


def test_attributes_sum_to_the_whole(sample: dict[str, list[Row]]) -> None:
    rows = sample["Attribute_Value_Extraction"]
    answers = noisy(rows, 0.3)
    found = find("AVE").kind.details(Predicted(answers, rows))["attributes"]
    assert sum(entry["n"] for entry in found.values()) == sum(
        len(json.loads(row.output)) for row in rows
    )
    hits = sum(entry["n"] * entry["official"]["recall"] for entry in found.values())
    total = sum(entry["n"] for entry in found.values())
    assert hits / total == pytest.approx(score("AVE", answers, rows)["official"]["recall"])
    sizes = [entry["n"] for entry in found.values()]
    assert sizes == sorted(sizes, reverse=True)


def test_the_worst_answers_come_first() -> None:
    rows, answers = coin(6, 0.5)
    answers[4] = "?"
    found = worst(find("SR"), answers, rows, {"3": 0.4, "5": 0.9, "0": 1.0})
    assert found == ["4", "5", "3"], "invalid, then the surest of the wrong ones"
    name = find("QPR").name
    ranked = [
        Row(str(n), "i", "x", None, "A,B", name, "IND", "test", ["E", "I"]) for n in range(2)
    ]
    assert worst(find("QPR"), ["A,B", "B,A"], ranked, {}) == ["1"]


def test_details_of_everything_are_json(sample: dict[str, list[Row]]) -> None:
    rows = [row for members in sample.values() for row in members]
    answers = dict(zip((row.id for row in rows), noisy(rows, 0.5), strict=True))
    found: dict[str, Any] = details(rows, answers)
    json.dumps(found, allow_nan=False)
    assert {(t, s) for t in found for s in found[t]} == {(r.task, r.setting) for r in rows}
    for by_setting in found.values():
        for entry in by_setting.values():
            assert entry["worst"]
