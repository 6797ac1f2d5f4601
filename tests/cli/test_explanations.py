"""A task that the paper lacks, through every command: it is one entry in the registry."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

from ecellm_mlx.data import rows
from ecellm_mlx.tasks.registry import find

MAPPED = ("query=search", "product=title")


def shop(path: Path, count: int = 24) -> Path:
    """Searches, products, and why they fit."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["search", "title", "why"])
        for n in range(count):
            writer.writerow([f"mug {n}", f"Enamel mug, {n} ml", f"It holds {n} ml."])
    return path


def maps(*items: str) -> list[str]:
    return [word for item in items for word in ("--map", item)]


def test_explanations_are_imported_trained_evaluated_and_written(
    ecellm: Any, tiny: Path, tmp_path: Path
) -> None:
    def run(*words: Any) -> str:
        done = ecellm(*words)
        assert done.returncode == 0, done.stderr
        return str(done.stdout)

    table, data = shop(tmp_path / "shop.csv"), tmp_path / "rows"
    run("data", "import", table, "--task", "EG", *maps(*MAPPED, "output=why"), "--out", data)
    (row, *_) = rows.load(data / "train.jsonl", tasks=["Explanation_Generation"])
    assert json.loads(row.input).keys() == {"query", "product"}
    assert row.instruction == find("EG").instruction
    training = tmp_path / "run"
    run(
        "train", "--model", tiny, "--data", data, "--out", training, "--json",
        "--set", "max_steps=1", "--set", "batch_size=4", "--set", "dropout=0",
    )  # fmt: skip
    words = ["--model", tiny, "--adapter", training, "--data", data / "test.jsonl"]
    results = json.loads(
        run(
            "eval", *words, "--task", "EG", "--limit", "1", "--out", tmp_path / "eval", "--json"
        )
    )
    (scores,) = results["decodings"]["valid"]["Explanation_Generation"].values()
    assert set(scores["official"]) == set(find("AG").kind.metrics)
    assert scores["n"] == 1
    assert "--bertscore" in scores["not_computed"]
    question = json.dumps({"history": ["Tea"], "product": "Enamel mug"})
    answer = json.loads(
        run("generate", "--model", tiny, "--task", "EG", "--input", question, "--json")
    )
    assert answer["task"] == "Explanation_Generation"
    assert answer["probability"] is None
    short = shop(tmp_path / "short.csv", 2)
    out = tmp_path / "out.csv"
    run("catalog", "run", short, "--task", "EG", "--yes", "--model", tiny, "--out", out)
    with out.open(newline="", encoding="utf-8") as file:
        written = list(csv.DictReader(file))
    assert len(written) == 2
    assert not any(line["ecellm_explanation_generation_error"] for line in written)


def test_a_query_or_a_purchase_must_be_given(refused: Any, tmp_path: Path) -> None:
    said = refused(
        "data", "import", shop(tmp_path / "shop.csv"), "--task", "EG",
        *maps("product=title", "output=why"), status=2,
    )  # fmt: skip
    assert "'query or history' is not mapped" in said
