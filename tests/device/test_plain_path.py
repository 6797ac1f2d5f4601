"""The extras of the CPU backend may be taken away: nothing but the speed changes.

The same commands run twice: here, with the extras, and in a process that cannot import
``ecellm_mlx.device.cpu``, as on a machine of another kind.
"""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file

from ecellm_mlx import device, sample
from tests import commands

pytestmark = pytest.mark.skipif(
    device.name() != "cpu", reason="only the Linux CPU backend has extras to be taken away"
)
KIND = "ecellm_kind"


def run_all(model: Path, data: Path, folder: Path) -> None:
    """Train, evaluate with the adapter, and answer a small catalog."""
    for command in (
        ["train", "--model", model, "--data", data, "--out", folder / "run",
         *(word for value in ("max_steps=3", "batch_size=4", "micro_batch_size=2", "seed=3",
                              "eval_every=3", "dropout=0.1") for word in ("--set", value))],
        ["eval", "--model", model, "--adapter", folder / "run", "--out", folder / "eval",
         "--data", sample.folder() / "test.jsonl", "--limit", "1"],
        ["catalog", "run", data / "table.csv", "--map", "title=title", "--model", model,
         "--labels", "Books,Lamps", "--name", "kind", "--out",
         folder / "table.csv"],
    ):  # fmt: skip
        done = commands.here(*command)
        assert done.returncode == 0, done.stderr


def predictions(folder: Path) -> dict[tuple[str, str], dict[str, Any]]:
    lines = (folder / "eval" / "predictions.jsonl").read_text().splitlines()
    return {(line["id"], line["setting"]): line for line in map(json.loads, lines)}


def events(folder: Path, kind: str) -> list[dict[str, Any]]:
    lines = (folder / "run" / "events.jsonl").read_text().splitlines()
    return [event for event in map(json.loads, lines) if event["type"] == kind]


def cells(folder: Path) -> list[dict[str, str]]:
    with (folder / "table.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_without_the_extras_everything_is_the_same(
    tiny: Path, dataset: Path, tmp_path: Path
) -> None:
    lines = sample.catalog().read_text(encoding="utf-8").splitlines()
    (dataset / "table.csv").write_text("\n".join(lines[:6]) + "\n", encoding="utf-8")
    code = (
        "import sys, pathlib\n"
        "for name in ('', '.rows', '.gradients', '.kernels', '.packed', '.quantized'):\n"
        "    sys.modules['ecellm_mlx.device.cpu' + name] = None\n"
        "from tests.device.test_plain_path import run_all\n"
        "run_all(*map(pathlib.Path, sys.argv[1:]))"
    )
    without, within = tmp_path / "without", tmp_path / "within"
    for folder in (without, within):
        folder.mkdir()
    other = subprocess.run(
        [sys.executable, "-c", code, str(tiny), str(dataset), str(without)],
        capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    assert other.returncode == 0, other.stderr
    run_all(tiny, dataset, within)

    names = [events(folder, "started")[0]["device"] for folder in (without, within)]
    assert names == ["cpu (plain)", "cpu"]
    for kind, keys in (("train_metrics", ("loss", "grad_norm")), ("eval_metrics", ("loss",))):
        for ours, theirs in zip(events(within, kind), events(without, kind), strict=True):
            assert [ours[k] for k in keys] == pytest.approx([theirs[k] for k in keys], rel=1e-4)
    adapters = [
        load_file(folder / "run" / "adapter" / "adapters.safetensors")
        for folder in (within, without)
    ]
    for name, array in adapters[0].items():
        assert adapters[1][name] == pytest.approx(array, abs=1e-4)

    ours, theirs = predictions(within), predictions(without)
    assert ours.keys() == theirs.keys()
    for key, line in ours.items():
        assert line["prediction"] == theirs[key]["prediction"]
        assert line.get("probability") == pytest.approx(
            theirs[key].get("probability"), abs=1e-3
        )
    for ours_cells, theirs_cells in zip(cells(within), cells(without), strict=True):
        assert ours_cells[KIND] == theirs_cells[KIND] != ""
        assert float(ours_cells[f"{KIND}_confidence"]) == pytest.approx(
            float(theirs_cells[f"{KIND}_confidence"]), abs=1e-3
        )
