"""Settings of an evaluation: what is kept of them is what was always kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ecellm_mlx.errors import UsageError
from ecellm_mlx.evaluation.settings import EvaluationSettings

# As a ``job.json`` of version 0.1 has them.
LOCAL = {
    "model": "/models/tiny", "model_name": "tiny", "adapter": "/runs/a/adapter",
    "data": "/rows/test.jsonl", "tasks": ["Product_Matching", "Sentiment_Analysis"],
    "settings": [], "limit": 20, "decodings": ["paper", "valid"], "values": "source",
    "batch_size": 4, "seed": 1, "endpoint": None, "baseline": "/runs/b",
    "threshold_from": "/runs/c", "bertscore": "/models/roberta", "bertscore_layer": 17,
}  # fmt: skip
REMOTE = {
    "model": "some", "model_name": "some", "adapter": None, "data": "/rows/test.jsonl",
    "tasks": [], "settings": ["IND_Diverse_Instruction"], "limit": None,
    "decodings": ["paper"], "values": "free", "batch_size": 16, "seed": 42,
    "endpoint": {
        "url": "http://127.0.0.1:1/v1", "api": "chat", "frame": "mistral", "concurrency": 3,
        "timeout_s": 2.5,
    },
    "baseline": None, "threshold_from": None, "bertscore": None, "bertscore_layer": None,
}  # fmt: skip


@pytest.mark.parametrize("kept", [LOCAL, REMOTE], ids=["here", "at an endpoint"])
def test_runs_of_earlier_versions_are_read(kept: dict[str, Any]) -> None:
    settings = EvaluationSettings.from_json(kept)
    assert settings.to_json() == kept
    assert settings.concurrency == (3 if kept is REMOTE else 4)


def test_names_become_paths(tiny: Path, tmp_path: Path) -> None:
    given = EvaluationSettings(model=str(tiny), data=Path("rows.jsonl"), tasks=("PM",))
    kept = given.resolved()
    assert (kept.model, kept.model_name) == (str(tiny.absolute()), str(tiny))
    assert kept.data == Path.cwd() / "rows.jsonl"
    assert kept.tasks == ("Product_Matching",)
    assert kept.decodings == ("valid",)


def test_contradictions_are_told_together() -> None:
    with pytest.raises(UsageError) as caught:
        EvaluationSettings(
            model="m",
            data=Path("d"),
            adapter="a",
            endpoint="http://x/v1",
            decodings=("valid",),  # type: ignore[arg-type]
            limit=0,
        )
    message = str(caught.value)
    assert "--adapter has no effect with --endpoint" in message
    assert "--decoding valid needs the model on this machine" in message
    assert "--limit must be at least 1" in message
    with pytest.raises(UsageError, match="--values source has no effect without --decoding"):
        EvaluationSettings(
            model="m",
            data=Path("d"),
            values="source",  # type: ignore[arg-type]
            decodings=("paper",),  # type: ignore[arg-type]
        )
