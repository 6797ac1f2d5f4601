"""Metrics against values worked out by hand and against scikit-learn."""

from __future__ import annotations

import json
import math
import random
import warnings

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from ecellm_mlx.data import rows
from ecellm_mlx.data.rows import Row
from ecellm_mlx.errors import DataError
from ecellm_mlx.evaluation.metrics import score, score_by_task
from ecellm_mlx.sample import folder
from ecellm_mlx.tasks.registry import TASKS, find

pytestmark = pytest.mark.unit

IND = "IND_Diverse_Instruction"
OOD = "OOD_Diverse_Instruction"
SENTIMENTS = [
    "A: very positive",
    "B: positive",
    "C: neutral",
    "D: negative",
    "E: very negative",
]


def labelled(task, outputs, setting=IND, labels=None):
    name = find(task).name
    return [
        Row(str(n), "i", "x", None, output, name, setting, "test", labels and labels[n])
        for n, output in enumerate(outputs)
    ]


def ave(*triples):
    keys = ("attribute", "value", "source")
    return json.dumps([dict(zip(keys, triple, strict=True)) for triple in triples])


def approx(**values):
    return pytest.approx(values, abs=1e-5)


@pytest.mark.parametrize(
    ("task", "text", "parsed"),
    [
        ("PM", " YES\n", "yes"),
        ("PM", "No", "no"),
        ("PM", "yes.", None),
        ("PM", "", None),
        ("SA", " B: positive", "B"),
        ("SA", "Because", "B"),
        ("SA", "b: positive", None),
        ("SA", "F", None),
        ("SA", "  ", None),
        ("SR", "T\n", "T"),
        ("SR", "T: lamp", None),
        ("SR", "U", None),
        ("SR", "", None),
        ("QPR", " B,A ", ["B", "A"]),
        ("QPR", "B, A", ["B"]),
        ("QPR", "B: lamp,a", ["B"]),
        ("QPR", "none", None),
        ("AVE", '[{"attribute": "size"}]', [{"attribute": "size"}]),
        ("AVE", '{"attribute": "size"}', []),
        ("AVE", "[{'attribute': 'size'}]", None),
        ("AVE", "[" * 100_000, None),
        ("AG", " It does. ", "It does."),
        ("AG", " ", None),
    ],
)
def test_answers_are_read_as_the_published_evaluator_reads_them(task, text, parsed):
    assert find(task).kind.parse(text) == parsed


def test_yes_no_by_hand():
    # Valid: tp 2, fp 1, fn 1, tn 3; invalid: one yes row, two no rows.
    labels = ["yes"] * 3 + ["no"] * 4 + ["yes", "no", "no"]
    answers = ["yes", "YES ", "no", "yes", "no", "no\n", " No", "maybe", "", "yes!"]
    result = score("PM", answers, labelled("PM", labels))
    assert (result["n"], result["invalid"]) == (10, 3)
    assert result["official"] == approx(
        acc=5 / 7, recall=2 / 3, precision=2 / 3, f1=2 / 3, specificity=3 / 4, npr=3 / 4
    )
    # Each invalid answer is the wrong one: fn 2, fp 3.
    assert result["strict"] == approx(
        acc=5 / 10, recall=2 / 4, precision=2 / 5, f1=4 / 9, specificity=3 / 6, npr=3 / 5
    )
    assert "not_computed" not in result


@settings(deadline=None, max_examples=40)
@given(st.lists(st.tuples(st.sampled_from(["yes", "no"]), st.sampled_from(["yes", "no", "?"]))))
def test_yes_no_equals_scikit_learn(pairs):
    result = score("AP", [b for _, b in pairs], labelled("AP", [a for a, _ in pairs]))
    valid = [(a, b) for a, b in pairs if b != "?"]
    assert result["invalid"] == len(pairs) - len(valid)
    if not valid:
        assert set(result["official"].values()) == {None}
        assert "not_computed" in result
        return
    true, got = zip(*valid, strict=True)
    official = result["official"]
    assert official["acc"] == sk.accuracy_score(true, got)
    assert official["f1"] == sk.f1_score(true, got, pos_label="yes", zero_division=0)
    assert official["recall"] == sk.recall_score(true, got, pos_label="yes", zero_division=0)
    assert official["specificity"] == pytest.approx(
        sk.recall_score(true, got, pos_label="no", zero_division=0)
    )
    assert official["npr"] == pytest.approx(
        sk.precision_score(true, got, pos_label="no", zero_division=0)
    )
    strict = result["strict"]
    assert all(strict[key] <= official[key] + 1e-12 for key in ("acc", "recall", "precision"))


def test_one_class_only_is_a_number_without_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = score("PM", ["no", "no"], labelled("PM", ["no", "no"]))
    assert result["official"] == approx(
        acc=1, recall=0, precision=0, f1=0, specificity=1, npr=1
    )


def test_choices_by_hand():
    labels = [SENTIMENTS[i] for i in (0, 0, 1, 1, 3)]
    answers = ["A: very positive", "B", "Best", "what", "D: negative"]
    result = score("SA", answers, labelled("SA", labels))
    assert (result["n"], result["invalid"]) == (5, 1)
    # Official over A, B, D: precision 1, 1/2, 1; recall 1/2, 1, 1; F1 2/3 each, and 1.
    assert result["official"] == approx(acc=3 / 4, precision=2.5 / 3, recall=2.5 / 3, f1=7 / 9)
    # Strict: the invalid answer is a miss of B, whose recall falls to 1/2.
    assert result["strict"] == approx(
        acc=3 / 5, precision=2.5 / 3, recall=2 / 3, f1=(2 / 3 + 1 / 2 + 1) / 3
    )


@settings(deadline=None, max_examples=40)
@given(st.lists(st.tuples(st.sampled_from("ABC"), st.sampled_from("ABCE?")), min_size=1))
def test_choices_equal_scikit_learn(pairs):
    result = score("PRP", [b for _, b in pairs], labelled("PRP", [a for a, _ in pairs]))
    valid = [(a, b) for a, b in pairs if b != "?"]
    if valid:
        true, got = zip(*valid, strict=True)
        options = {"average": "macro", "zero_division": 0}
        assert result["official"] == {
            "acc": sk.accuracy_score(true, got),
            "recall": sk.recall_score(true, got, **options),
            "precision": sk.precision_score(true, got, **options),
            "f1": sk.f1_score(true, got, **options),
        }
    if len(valid) == len(pairs):
        assert result["strict"] == result["official"]
    hits = sum(a == b for a, b in pairs)
    assert result["strict"]["acc"] == pytest.approx(hits / len(pairs))


def test_recommendations_by_hand():
    result = score("SR", ["A", "b", "T", "C: x"], labelled("SR", ["A", "B", "S", "C"]))
    assert result == {
        "official": {"recall@1": 1 / 2},
        "strict": {"recall@1": 1 / 4},
        "n": 4,
        "invalid": 2,
    }


GAIN_S, GAIN_C = 2**0.1 - 1, 2**0.01 - 1
SECOND, THIRD = 1 / math.log2(3), 1 / 2


def test_ranking_by_hand():
    judged = ["S", "E", "C"]
    items = labelled("QPR", ["B,A,C"] * 4, labels=[judged] * 4)
    full = 1 + GAIN_S * SECOND + GAIN_C * THIRD

    def both(text):
        one = score("QPR", [text], items[:1])
        return one["official"]["NDCG"], one["strict"]["NDCG"], one["invalid"]

    assert both("B,A,C") == pytest.approx((1, 1, 0), abs=1e-5)
    swapped = (GAIN_S + SECOND + GAIN_C * THIRD) / full
    assert both("A,B,C") == pytest.approx((swapped, swapped, 0), abs=1e-5)
    # Official takes its ideal from what was named; strict from all that was judged.
    assert both("A") == pytest.approx((1, GAIN_S / full, 0), abs=1e-4)
    # A space makes a part invalid, as published; in strict it keeps its rank for nothing.
    assert both("B, A,C") == pytest.approx((1, (1 + GAIN_C * THIRD) / full, 1), abs=1e-5)
    # A letter behind the options is invalid; a repeated one gains once in strict.
    assert both("D,B") == pytest.approx((1, SECOND / full, 1), abs=1e-5)
    official, strict, invalid = both("B,B,A")
    assert (official, invalid) == (pytest.approx(1, abs=1e-5), 0)
    assert strict == pytest.approx((1 + GAIN_S * THIRD) / full, abs=1e-5)
    assert both("") == (0, 0, 1)
    result = score("QPR", ["B,A,C", "", "?,!", "B,A,C"], items)
    assert result["official"]["NDCG"] == pytest.approx(2 / 4, abs=1e-5)
    assert (result["n"], result["invalid"]) == (4, 3)


def test_ranking_without_judgments_is_not_computed():
    items = labelled("QPR", ["B,A", "A,B"], labels=[["S", "E"], None])
    result = score("QPR", ["B,A", "A,B"], items)
    assert result["official"] == result["strict"] == {"NDCG": None}
    assert (
        "1 of 2 rows have no labels (E, S, C, I); `ecellm data pull" in result["not_computed"]
    )


SIZE, COLOR = ("size", "10 oz", "product title"), ("color", "red", "product feature")


def test_extraction_by_hand():
    items = labelled("AVE", [ave(SIZE, COLOR), ave(SIZE), ave(COLOR)])
    answers = [
        ave(SIZE, ("color", "blue", "product feature")),
        "size: 10 oz",
        '{"attribute": "color"}',
    ]
    result = score("AVE", answers, items)
    assert (result["n"], result["invalid"]) == (3, 1)
    # One hit of four labels, of two items.
    expected = approx(recall=1 / 4, precision=1 / 2, f1=1 / 3)
    assert result["official"] == expected
    assert result["strict"] == expected


def test_extraction_counts_repeated_and_foreign_items_in_strict_only():
    items = labelled("AVE", [ave(SIZE)])
    answer = json.dumps([*json.loads(ave(SIZE, SIZE)), "size", 3, {"value": "x"}])
    result = score("AVE", [answer], items)
    # Published: both copies hit the one label; what has no attribute is not counted.
    assert result["official"] == approx(recall=2, precision=1, f1=4 / 3)
    assert result["strict"] == approx(recall=1, precision=1 / 5, f1=1 / 3)


@pytest.mark.parametrize(
    ("answer", "hit"),
    [
        (("size", "10", "product title"), True),
        (("size", "about 10 oz", "title"), True),
        (("size", "12 oz", "product title"), False),
        (("color", "10 oz", "product title"), False),
        (("size", None, "product title"), False),
        (("size", "10 oz", None), False),
        (("size", "10 oz", 3), False),
        (("size", 10, "product title"), True),
    ],
)
def test_containment_counts_out_of_domain_only(answer, hit):
    for setting, expected in ((OOD, hit), ("OOD_Unseen_Instruction", hit), (IND, False)):
        result = score("AVE", [ave(answer)], labelled("AVE", [ave(SIZE)], setting))
        assert result["official"]["recall"] == result["strict"]["recall"] == float(expected)


def test_an_exact_match_is_paired_before_a_loose_one():
    short = ("size", "10", "product title")
    items = labelled("AVE", [ave(short, SIZE)], OOD)
    result = score("AVE", [ave(SIZE, short)], items)
    assert result["strict"] == approx(recall=1, precision=1, f1=1)


def test_one_item_cannot_be_paired_with_two_labels_in_strict():
    short = ("size", "10", "product title")
    result = score("AVE", [ave(short)], labelled("AVE", [ave(short, SIZE)], OOD))
    assert result["official"] == approx(recall=1, precision=2, f1=4 / 3)
    assert result["strict"] == approx(recall=1 / 2, precision=1, f1=2 / 3)


def test_extraction_where_nothing_can_be_read():
    items = labelled("AVE", [ave(SIZE)])
    # As published: unreadable answers are empty ones, and that is a score.
    assert score("AVE", ["?"], items)["official"]["recall"] == 0
    result = score("AVE", ["[]"], labelled("AVE", ["red"]))
    assert result["official"]["f1"] is None
    assert "no row has a label" in result["not_computed"]


def test_text_is_not_scored_here():
    result = score("AG", ["It does.", ""], labelled("AG", ["Yes.", "No."]))
    assert result["official"] == result["strict"] == dict.fromkeys(find("AG").kind.metrics)
    assert (result["n"], result["invalid"]) == (2, 1)
    assert "BERTScore" in result["not_computed"]


@pytest.mark.parametrize("task", list(TASKS))
def test_no_valid_answer_is_never_a_zero_of_the_official_score(task):
    result = score(task, [], [])
    assert set(result["official"].values()) == {None}
    assert TASKS[task].metric in result["official"]
    assert (result["n"], result["invalid"]) == (0, 0)
    assert result["not_computed"]


@pytest.mark.parametrize("task", ["PM", "SA", "SR"])
def test_all_answers_invalid(task):
    labels = {"PM": "yes", "SA": "A: good", "SR": "A"}[task]
    result = score(task, ["?"], labelled(task, [labels]))
    assert set(result["official"].values()) == {None}
    assert result["strict"][find(task).metric] == 0
    assert result["not_computed"] == "none of the answers is valid"


@pytest.fixture(scope="module")
def sample():
    return rows.load(folder() / "test.jsonl")


def test_the_labels_of_real_rows_score_full_marks(sample):
    result = score_by_task(sample, {row.id: row.output for row in sample})
    assert {(task, setting) for task in result for setting in result[task]} == {
        (row.task, row.setting) for row in sample
    }
    for task, by_setting in result.items():
        for values in by_setting.values():
            assert values["invalid"] == 0
            assert values["official"][TASKS[task].metric] == pytest.approx(1, abs=1e-4)
            assert values["strict"][TASKS[task].metric] == pytest.approx(1, abs=1e-4)
    json.dumps(result, allow_nan=False)


def test_strict_is_never_better_than_official_in_accuracy(sample):
    rng = random.Random(0)
    noise = ["yes", "no", "A", "B,A", "[]", "?"]
    guesses = {row.id: rng.choice([row.output, *noise]) for row in sample}
    for task, by_setting in score_by_task(sample, guesses).items():
        key = (
            "acc"
            if "acc" in next(iter(by_setting.values()))["official"]
            else TASKS[task].metric
        )
        for values in by_setting.values():
            assert values["invalid"] > 0
            assert values["strict"][key] <= values["official"][key]


def test_predictions_must_belong_to_rows_and_be_complete(sample):
    matching = [row for row in sample if row.task == "Product_Matching"]
    answers = {row.id: row.output for row in matching}
    result = score_by_task(sample, answers)
    assert list(result) == ["Product_Matching"]
    del answers[matching[3].id]
    with pytest.raises(DataError, match=rf"1 of 60 rows of .*none for id '{matching[3].id}'"):
        score_by_task(sample, answers)
    assert score_by_task(sample, answers, partial=True)["Product_Matching"][IND]["n"] == 59
    with pytest.raises(DataError, match="1 of 60 predictions belong to no row: got id 'x'"):
        score_by_task(sample, {**answers, "x": "yes"})
    with pytest.raises(ValueError, match="1 predictions for 60 rows"):
        score("PM", ["yes"], matching)
