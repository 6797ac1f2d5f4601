"""The tour, as `make demo` runs it, on the real model: short, but whole."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

KEYS = {"task", "n", "metric", "before", "after", "invalid_before", "invalid_after", "decoding"}


@pytest.mark.proof
def test_quick_demo(ecellm: Any, gguf_file: Path, tmp_path: Path) -> None:
    assert gguf_file.exists()
    done = ecellm("demo", "--quick", "--json", "--out", tmp_path / "demo")
    assert done.returncode == 0, done.stderr
    results = json.loads(done.stdout)
    assert {entry["decoding"] for entry in results["tasks"]} == {"valid", "paper"}
    for entry in results["tasks"]:
        assert entry.keys() >= KEYS
        if entry["decoding"] == "valid":
            assert entry["invalid_before"] == entry["invalid_after"] == 0
    free = [entry for entry in results["tasks"] if entry["decoding"] == "paper"]
    assert sum(e["invalid_after"] for e in free) < sum(e["invalid_before"] for e in free)
    assert results["peft"]["max_abs_error"] < 1e-6
    assert results["train"]["tokens_per_second"] > 0
    assert results["catalog"]["rows"] >= 50
    with Path(results["catalog"]["out"]).open(encoding="utf-8", newline="") as stream:
        products = list(csv.DictReader(stream))
    assert len(products) == results["catalog"]["rows"]
    for product in products:
        answer = json.loads(product["ecellm_attribute_value_extraction"])
        assert {item["attribute"] for item in answer} == {"brand"}
    for path in results["paths"].values():
        assert Path(path).exists()
