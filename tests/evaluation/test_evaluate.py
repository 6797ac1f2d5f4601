"""The evaluation job: every row answered, valid answers only, metrics beside them."""

from __future__ import annotations

import json
from pathlib import Path

from ecellm_mlx import jobs
from ecellm_mlx.data import rows
from ecellm_mlx.evaluation import evaluate


def test_both_decodings(tiny: Path, dataset: Path, tmp_path: Path) -> None:
    data = dataset / "test.jsonl"
    run = evaluate.launch(
        str(tiny), data, decodings=("valid", "paper"), batch_size=4, out=tmp_path / "run"
    )
    context = jobs.JobContext(run)
    outcome, results = evaluate.run_job(context)
    context.close()
    assert outcome == "finished"
    expected = [row.id for row in rows.load(data)]
    for name in ("predictions.jsonl", "predictions.paper.jsonl"):
        lines = [json.loads(line) for line in (run.path / name).read_text().splitlines()]
        assert [line["id"] for line in lines] == expected
    valid = results["decodings"]["valid"]
    assert all(r["invalid"] == 0 for by_setting in valid.values() for r in by_setting.values())
    # A random model's free text is no answer.
    paper = results["decodings"]["paper"]
    assert all(r["invalid"] > 0 for by_setting in paper.values() for r in by_setting.values())
    assert json.loads((run.path / "metrics.json").read_text())["n"] == len(expected)
    assert results["subset"] is False


def test_limit_is_a_flagged_subset(tiny: Path, dataset: Path, tmp_path: Path) -> None:
    run = evaluate.launch(str(tiny), dataset / "test.jsonl", limit=3, out=tmp_path / "run")
    context = jobs.JobContext(run)
    _, results = evaluate.run_job(context)
    context.close()
    assert results["n"] == 3
    assert results["subset"] is True
    assert len(results["decodings"]["valid"]) == 3, "every task keeps a row"
