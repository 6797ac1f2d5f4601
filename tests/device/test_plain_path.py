"""The extras of the CPU backend may be taken away: answers are the same.

The same commands run twice: here, with the extras, and in a process that cannot import
``ecellm_mlx.device.cpu``, as on a machine of another kind.
"""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from ecellm_mlx import device, sample
from tests import commands, without_extras

pytestmark = pytest.mark.skipif(device.expected() is not device.CPU, reason="plain anyway")

KIND = "ecellm_kind"
RUN_ALL = """
from tests.device.test_plain_path import run_all

run_all(*map(Path, sys.argv[1:]))
"""


def run_all(model: Path, data: Path, folder: Path) -> None:
    """Evaluate, and answer a small catalog."""
    for command in (
        ["eval", "--model", model, "--data", data / "test.jsonl", "--out", folder / "eval"],
        ["catalog", "run", data / "table.csv", "--map", "title=title", "--model", model,
         "--labels", "Books,Lamps,Pet supplies", "--name", "kind", "--out",
         folder / "table.csv"],
    ):  # fmt: skip
        done = commands.here(*command)
        assert done.returncode == 0, done.stderr


def predictions(folder: Path) -> dict[str, dict[str, Any]]:
    lines = (folder / "eval" / "predictions.jsonl").read_text().splitlines()
    return {line["id"]: line for line in map(json.loads, lines)}


def device_of(folder: Path) -> str:
    lines = (folder / "eval" / "events.jsonl").read_text().splitlines()
    return str(next(e for e in map(json.loads, lines) if e["event"] == "started")["device"])


def cells(folder: Path) -> list[dict[str, str]]:
    with (folder / "table.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_without_the_extras_answers_are_the_same(
    tiny: Path, dataset: Path, tmp_path: Path
) -> None:
    lines = sample.catalog().read_text(encoding="utf-8").splitlines()
    (dataset / "table.csv").write_text("\n".join(lines[:6]) + "\n", encoding="utf-8")
    without, within = tmp_path / "without", tmp_path / "within"
    for folder in (without, within):
        folder.mkdir()
    without_extras.run(RUN_ALL, tiny, dataset, without)
    run_all(tiny, dataset, within)

    assert [device_of(without), device_of(within)] == ["cpu (plain)", "cpu"]
    ours, theirs = predictions(within), predictions(without)
    assert ours.keys() == theirs.keys()
    for row, line in ours.items():
        assert line["prediction"] == theirs[row]["prediction"]
        assert line["probability"] == pytest.approx(theirs[row]["probability"], abs=1e-3)
    for mine, other_cells in zip(cells(within), cells(without), strict=True):
        assert mine[KIND] == other_cells[KIND] != ""
        confidence = float(other_cells[f"{KIND}_confidence"])
        assert float(mine[f"{KIND}_confidence"]) == pytest.approx(confidence, abs=1e-3)
