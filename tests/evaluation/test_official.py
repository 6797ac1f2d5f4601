"""The official metrics against the published evaluator, to the last digit.

The functions here restate its rules (eCeLLM, evaluate.py) with scikit-learn and without
anything of ours, for answers of every kind: right, wrong, malformed, empty. Where the
published script raises (one class left, nothing valid, an item that is no object) there
is nothing to compare with; the generated answers stay clear of those cases.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from ecellm_mlx.data.rows import Row
from ecellm_mlx.evaluation.metrics import score
from ecellm_mlx.tasks.registry import find

pytestmark = pytest.mark.unit

IND, OOD = "IND_Diverse_Instruction", "OOD_Diverse_Instruction_1-shot"


def rows_of(task: str, outputs: list[str], setting: str = IND, labels: Any = None) -> list[Row]:
    name = find(task).name
    return [
        Row(
            str(n), "i", "x", None, output, name, setting, "test", labels[n] if labels else None
        )
        for n, output in enumerate(outputs)
    ]


def published_yes_no(answers: list[str], labels: list[str]) -> dict[str, float]:
    cleaned = [answer.lower().strip() for answer in answers]
    kept = [n for n, answer in enumerate(cleaned) if answer in ("yes", "no")]
    got, true = [cleaned[n] for n in kept], [labels[n] for n in kept]
    (tn, fp), (fn, _) = sk.confusion_matrix(true, got)
    options = {"pos_label": "yes", "average": "binary", "zero_division": 0}
    return {
        "acc": sk.accuracy_score(true, got),
        "recall": sk.recall_score(true, got, **options),
        "precision": sk.precision_score(true, got, **options),
        "f1": sk.f1_score(true, got, **options),
        "specificity": tn / (tn + fp + 1e-8),
        "npr": tn / (tn + fn + 1e-8),
        "#invalid": len(answers) - len(kept),
    }


def published_choice(answers: list[str], labels: list[str]) -> dict[str, float]:
    first = [answer.strip()[0] for answer in answers]
    kept = [n for n, letter in enumerate(first) if letter in "ABCDE"]
    got, true = [first[n] for n in kept], [labels[n][0] for n in kept]
    options = {"average": "macro", "zero_division": 0}
    return {
        "acc": sk.accuracy_score(true, got),
        "recall": sk.recall_score(true, got, **options),
        "precision": sk.precision_score(true, got, **options),
        "f1": sk.f1_score(true, got, **options),
        "#invalid": len(answers) - len(kept),
    }


def published_hits(answers: list[str], labels: list[str]) -> dict[str, float]:
    letters = {chr(code) for code in range(ord("A"), ord("T") + 1)}
    kept = [n for n, answer in enumerate(answers) if answer.strip() in letters]
    got, true = [answers[n].strip() for n in kept], [labels[n] for n in kept]
    return {"recall@1": sk.accuracy_score(true, got), "#invalid": len(answers) - len(kept)}


def published_ndcg(answers: list[str], judgments: list[list[str]]) -> dict[str, float]:
    gain = {"E": 1.0, "S": 0.1, "C": 0.01, "I": 0}

    def dcg(gains: list[float]) -> float:
        result: Any = 0
        for place in range(len(gains)):
            result = result + (2 ** gains[place] - 1) / np.log2(place + 2)
        return result

    total: Any = 0
    skipped = 0
    for answer, judged in zip(answers, judgments, strict=True):
        of_letter = {chr(ord("A") + n): gain[label] for n, label in enumerate(judged)}
        gains = []
        for part in answer.strip().split(","):
            if part and part[0] in of_letter:
                gains.append(of_letter[part[0]])
            else:
                skipped += 1
        total = total + dcg(gains) / (dcg(sorted(gains, reverse=True)) + 1e-6)
    return {"NDCG": total / len(answers), "#invalid": skipped}


def published_extraction(
    answers: list[str], labels: list[str], setting: str
) -> dict[str, float]:
    skipped = hits = asked = predicted = 0
    for answer, label_text in zip(answers, labels, strict=True):
        try:
            items = json.loads(answer)
        except ValueError:
            items = []
            skipped += 1
        items = items if isinstance(items, list) else []
        predicted += sum("attribute" in item for item in items)
        try:
            expected = json.loads(label_text)
        except ValueError:
            # What was answered counts although nothing can be hit.
            continue
        for label in expected:
            asked += 1
            for item in items:
                if not {"attribute", "value", "source"} <= set(item):
                    continue
                same = all(item[key] == label[key] for key in ("attribute", "value", "source"))
                loose = (
                    "OOD" in setting
                    and item["attribute"] == label["attribute"]
                    and item["value"] is not None
                    and item["source"] is not None
                    and overlap(str(item["value"]), str(label["value"]))
                    and overlap(item["source"], label["source"])
                )
                hits += same or loose
    recall, precision = hits / asked, hits / (predicted + 1e-6)
    return {
        "recall": recall,
        "precision": precision,
        "f1": 2 * recall * precision / (recall + precision + 1e-6),
        "#invalid": skipped,
    }


def overlap(one: str, other: str) -> bool:
    return one in other or other in one


def ours(task: str, answers: list[str], rows: list[Row]) -> dict[str, float]:
    result = score(task, answers, rows)
    return {**result["official"], "#invalid": result["invalid"]}


YES_NO = st.sampled_from(["yes", "no", " Yes\n", "NO", "yes.", "maybe", "", "y"])


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.sampled_from(["yes", "no"]), YES_NO), min_size=2, max_size=60))
def test_yes_no(pairs: list[tuple[str, str]]) -> None:
    labels, answers = [a for a, _ in pairs], [b for _, b in pairs]
    seen = {
        value
        for label, answer in pairs
        if answer.lower().strip() in ("yes", "no")
        for value in (label, answer.lower().strip())
    }
    assume(seen == {"yes", "no"})
    for task in ("PM", "PSI", "AP"):
        assert ours(task, answers, rows_of(task, labels)) == published_yes_no(answers, labels)


OPTIONS = [f"{letter}: text" for letter in "ABCDE"]
CHOICE = st.sampled_from([*"ABCDE", *OPTIONS, " C", "b", "Great", "Dunno", "?", "F", "E: "])


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.sampled_from(OPTIONS), CHOICE), min_size=1, max_size=60))
def test_choices(pairs: list[tuple[str, str]]) -> None:
    labels, answers = [a for a, _ in pairs], [b for _, b in pairs]
    assume(any(answer.strip()[0] in "ABCDE" for answer in answers))
    for task in ("SA", "MPC", "PRP"):
        assert ours(task, answers, rows_of(task, labels)) == published_choice(answers, labels)


LETTERS = [chr(ord("A") + n) for n in range(20)]
ITEM = st.sampled_from([*LETTERS, " B ", "B:", "U", "", "a", "A,B", "Option C"])


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.sampled_from(LETTERS), ITEM), min_size=1, max_size=60))
def test_recommendations(pairs: list[tuple[str, str]]) -> None:
    labels, answers = [a for a, _ in pairs], [b for _, b in pairs]
    assume(any(answer.strip() in LETTERS for answer in answers))
    assert ours("SR", answers, rows_of("SR", labels)) == published_hits(answers, labels)


PART = st.sampled_from(["A", "B", "C", "D", "E", " A", "B: title", "", "1", "a", "Z"])
RANKING = st.lists(PART, max_size=8).map(",".join)
JUDGED = st.lists(st.sampled_from("ESCI"), min_size=2, max_size=5)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(JUDGED, RANKING), min_size=1, max_size=25))
def test_rankings(pairs: list[tuple[list[str], str]]) -> None:
    judged, answers = [a for a, _ in pairs], [b for _, b in pairs]
    outputs = [",".join(LETTERS[: len(labels)]) for labels in judged]
    rows = rows_of("QPR", outputs, labels=judged)
    assert ours("QPR", answers, rows) == published_ndcg(answers, judged)


NAME = st.sampled_from(["brand", "color", "size"])
VALUE = st.sampled_from(["red", "dark red", "Acme", "None", "10"])
SOURCE = st.sampled_from(["product title", "title", "product feature", "None"])
LABEL = st.fixed_dictionaries({"attribute": NAME, "value": VALUE, "source": SOURCE})
ANSWERED = st.one_of(
    LABEL,
    st.fixed_dictionaries({"attribute": NAME, "value": st.none(), "source": SOURCE}),
    st.fixed_dictionaries({"attribute": NAME, "value": st.just(10), "source": SOURCE}),
    st.fixed_dictionaries({"attribute": NAME, "value": VALUE, "source": st.none()}),
    st.fixed_dictionaries({"attribute": NAME, "value": VALUE}),
    st.fixed_dictionaries({"value": VALUE, "source": SOURCE}),
)
LISTED = st.lists(ANSWERED, max_size=5).map(json.dumps)
EXPECTED = st.one_of(
    st.lists(LABEL, min_size=1, max_size=4).map(json.dumps), st.just("brand: Acme")
)
MALFORMED = st.sampled_from(
    ["", "brand: Acme", "[{", "{}", "3", '{"attribute": "brand"}', "[]"]
)


@pytest.mark.parametrize("setting", [IND, OOD])
@settings(deadline=None, max_examples=60)
@given(
    st.lists(
        st.tuples(EXPECTED, st.one_of(LISTED, MALFORMED)),
        min_size=1,
        max_size=20,
    )
)
def test_extraction(setting: str, pairs: list[tuple[str, str]]) -> None:
    labels, answers = [a for a, _ in pairs], [b for _, b in pairs]
    assume(any(label.startswith("[") for label in labels))
    rows = rows_of("AVE", labels, setting)
    assert ours("AVE", answers, rows) == published_extraction(answers, labels, setting)
