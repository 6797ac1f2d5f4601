"""``ecellm score`` and ``ecellm compare`` as a user meets them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ecellm_mlx import sample

pytestmark = pytest.mark.unit

ONE_SHOT = "IND_Diverse_Instruction_1-shot"


@pytest.fixture
def labels(tmp_path: Path) -> Path:
    """Real rows under the Hugging Face copy's spellings; some of them one-shot."""
    items = [
        json.loads(line)
        for line in (sample.folder() / "test.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    spellings = {
        "Product_Substitue_Identification": "Product_Substitute_Identification",
        "Product_Relation_Predicition": "Product_Relation_Prediction",
        "Query_Product_Ranking": "Query_Product_Rank",
    }
    for n, item in enumerate(items):
        item["task"] = spellings.get(item["task"], item["task"])
        if n % 3 == 0:
            item |= {"setting": ONE_SHOT, "few_shot_example": {"input": "x", "output": "y"}}
    path = tmp_path / "test.jsonl"
    path.write_text("".join(json.dumps(item) + "\n" for item in items), encoding="utf-8")
    return path


def answers(labels: Path, path: Path, **changes: str) -> Path:
    """The expected answers in reverse order, with ``changes`` of whole tasks."""
    lines = []
    for line in reversed(labels.read_text(encoding="utf-8").splitlines()):
        item = json.loads(line)
        answer = changes.get(item["task"], item["output"])
        lines.append(json.dumps({"id": item["id"], "prediction": answer, "extra": 1}))
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def test_the_contract(ecellm: Any, labels: Path, tmp_path: Path) -> None:
    path = answers(labels, tmp_path / "p.jsonl", Sentiment_Analysis="no idea")
    done = ecellm("score", "--predictions", path, "--labels", labels, "--json")
    assert done.returncode == 0, done.stderr
    scores = json.loads(done.stdout)
    # Both spellings end up under the published evaluator's own.
    assert {"Query_Product_Ranking", "Product_Substitue_Identification"} <= scores.keys()
    assert any(ONE_SHOT in by_setting for by_setting in scores.values())
    for task, by_setting in scores.items():
        for result in by_setting.values():
            assert {"official", "strict", "n", "invalid"} <= result.keys()
            if task != "Sentiment_Analysis":
                assert result["invalid"] == 0
                assert not result.keys() - {"official", "strict", "n", "invalid"}
    sentiment = scores["Sentiment_Analysis"]["IND_Diverse_Instruction"]
    assert sentiment["invalid"] == sentiment["n"]
    assert sentiment["official"]["f1"] is None, "nothing valid is not a zero"
    assert sentiment["strict"]["f1"] == 0


def test_details_on_request(ecellm: Any, labels: Path, tmp_path: Path) -> None:
    path = answers(labels, tmp_path / "p.jsonl", Sentiment_Analysis="A: very positive")
    done = ecellm("score", "--predictions", path, "--labels", labels, "--details", "--json")
    scores = json.loads(done.stdout)
    sentiment = scores["Sentiment_Analysis"]["IND_Diverse_Instruction"]
    low, high = sentiment["intervals"]["official"]["f1"]
    assert low <= sentiment["official"]["f1"] <= high
    assert sum(map(sum, sentiment["confusion"]["counts"])) == sentiment["n"]
    extraction = scores["Attribute_Value_Extraction"]["IND_Diverse_Instruction"]
    assert extraction["attributes"]


def test_compare(ecellm: Any, labels: Path, tmp_path: Path) -> None:
    right = answers(labels, tmp_path / "right.jsonl")
    wrong = answers(labels, tmp_path / "wrong.jsonl", Product_Matching="no")
    done = ecellm("compare", wrong, right, "--labels", labels, "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)["Product_Matching"]["IND_Diverse_Instruction"]
    assert found["metric"] == "f1"
    assert found["official"]["difference"] == found["official"]["b"] == 1
    assert found["strict"]["p"] < 0.05
    assert found["mcnemar"]["only_a"] == 0 < found["mcnemar"]["only_b"]
    table = ecellm("compare", wrong, right, "--labels", labels)
    assert "McNemar" in table.stdout


def test_refusals(refused: Any, labels: Path, tmp_path: Path) -> None:
    path = answers(labels, tmp_path / "p.jsonl")
    lines = path.read_text(encoding="utf-8").splitlines()
    bad = tmp_path / "bad.jsonl"

    def message(*content: str) -> str:
        bad.write_text("\n".join(content), encoding="utf-8")
        return refused("score", "--predictions", bad, "--labels", labels)

    assert "is empty" in message("")
    assert f"{bad}:2: no prediction" in message(lines[0], '{"id": "x"}')
    assert f"{bad}:1: no prediction" in message("<html>")
    stranger = json.dumps({"id": "from/another/file", "prediction": "yes"})
    assert "from/another/file" in message(*lines, stranger)
    missing = tmp_path / "none.jsonl"
    assert "there is no" in refused("score", "--predictions", path, "--labels", missing)
    bad.write_text("\n".join(lines[1:]), encoding="utf-8")
    mismatch = refused("compare", path, bad, "--labels", labels)
    assert json.loads(lines[0])["id"] in mismatch


def test_ranking_without_judgments_says_so(ecellm: Any, labels: Path, tmp_path: Path) -> None:
    items = [json.loads(line) for line in labels.read_text(encoding="utf-8").splitlines()]
    for item in items:
        item.pop("labels", None)
    labels.write_text("".join(json.dumps(item) + "\n" for item in items), encoding="utf-8")
    path = answers(labels, tmp_path / "p.jsonl")
    done = ecellm("score", "--predictions", path, "--labels", labels)
    assert done.returncode == 0, done.stderr
    assert "have no labels (E, S, C, I)" in done.stderr
    assert "not computed" in done.stdout
