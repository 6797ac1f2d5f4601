"""The tasks: names in every spelling, and declarations that fit the real rows."""

from __future__ import annotations

import json

import pytest

from ecellm_mlx.data import rows
from ecellm_mlx.data.prompts import input_text
from ecellm_mlx.errors import DataError
from ecellm_mlx.sample import folder
from ecellm_mlx.tasks.choice import Choice
from ecellm_mlx.tasks.registry import TASKS, find

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("name", "canonical"),
    [
        ("Product_Substitue_Identification", "Product_Substitue_Identification"),
        ("Product_Substitute_Identification", "Product_Substitue_Identification"),
        ("product_relation_prediction", "Product_Relation_Predicition"),
        ("Query_Product_Rank", "Query_Product_Ranking"),
        ("ave", "Attribute_Value_Extraction"),
        ("Product Matching", "Product_Matching"),
        ("sentiment-analysis", "Sentiment_Analysis"),
    ],
)
def test_every_spelling_finds_its_task(name, canonical):
    assert find(name).name == canonical


@pytest.mark.parametrize(
    "short", ["PM", "PSI", "PRP", "SA", "SR", "MPC", "QPR", "AVE", "AP", "AG", "EG"]
)
def test_abbreviations_are_unambiguous(short):
    assert find(short).short == short


def test_either_of_several_fields_is_enough():
    task = find("Explanation_Generation")
    assert task.lacking({"product", "query"}) == task.lacking({"product"}, {"history"}) == []
    assert task.lacking({"query"}) == ["product"]
    assert task.lacking({"product"}) == ["query or history"]
    with pytest.raises(DataError, match="lacks query or history"):
        input_text(task, {"product": "a mug"})
    both = input_text(task, {"product": "a mug", "history": ["tea", "milk"], "query": "cup"})
    assert json.loads(both) == {"query": "cup", "history": ["tea", "milk"], "product": "a mug"}


def test_an_unknown_task_lists_those_that_exist():
    with pytest.raises(DataError, match=r"no task 'Pricing'.*Product_Matching \(PM\)") as error:
        find("Pricing")
    assert all(name in str(error.value) for name in TASKS)


def test_the_headlines_are_the_papers():
    headlines = {
        task.short: (task.metric, task.metric_label) for task in TASKS.values() if task.paper
    }
    assert headlines == {
        "PM": ("f1", "F1"),
        "PSI": ("f1", "F1"),
        "AP": ("f1", "F1"),
        "PRP": ("f1", "macro F1"),
        "SA": ("f1", "macro F1"),
        "MPC": ("acc", "accuracy"),
        "SR": ("recall@1", "HR@1"),
        "QPR": ("NDCG", "NDCG"),
        "AVE": ("f1", "F1"),
        "AG": ("bertscore_f1", "BERTScore F1"),
    }


def test_a_task_and_its_kind_belong_together():
    for task in TASKS.values():
        assert task.metric in task.kind.metrics
        assert set(task.required) <= set(task.fields)
        assert set(task.either) <= set(task.fields)
        assert task.ranked + task.closed + task.free + task.extracts == 1


def test_choices_are_written_as_letters_or_in_full():
    choices = {t.short: t.kind for t in TASKS.values() if isinstance(t.kind, Choice)}
    assert {short for short, kind in choices.items() if kind.in_full} == {"SA", "MPC"}
    assert set(choices) == {"SA", "MPC", "PRP", "SR"}
    assert all(kind.letters for kind in choices.values())


def test_declared_fields_are_those_of_the_real_inputs():
    seen = set()
    for row in rows.load(folder() / "train.jsonl"):
        task = find(row.task)
        if task.short in ("SA", "PM"):  # plain text, and JSON with the bare token NaN
            continue
        names = list(json.loads(row.input))
        assert names == [name for name in task.fields if name in names]
        assert set(task.required) <= set(names)
        seen.add(task.short)
    assert seen == {"AVE", "PRP", "PSI", "QPR"}


def test_default_instructions_occur_in_real_rows():
    used = {row.instruction for row in rows.load(folder() / "train.jsonl")}
    for short in ("PM", "SA", "AVE", "PRP", "PSI", "QPR"):
        assert find(short).instruction in used
