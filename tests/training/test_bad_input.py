"""What a user gets wrong before a training ends in one sentence of the real command."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from ecellm_mlx.data import rows
from tests.conftest import write_rows

QUICK = ["max_steps=1", "batch_size=4", "micro_batch_size=2"]


@pytest.fixture
def train(tiny: Path, tmp_path: Path, ecellm: Any) -> Any:
    """``ecellm train`` on the tiny model; returns the finished process."""

    def run(data: Path, *settings: str, out: str = "run", model: Path = tiny) -> Any:
        chosen = [part for item in [*QUICK, *settings] for part in ("--set", item)]
        return ecellm(
            "train", "--model", model, "--data", data, "--out", tmp_path / out, *chosen
        )

    return run


def sentence(result: Any) -> str:
    """The last line on stderr of a failed command, which is no traceback."""
    assert result.returncode == 1, result.stderr
    assert "Traceback" not in result.stderr
    last: str = result.stderr.strip().splitlines()[-1]
    assert last.startswith("ecellm: ")
    assert last.endswith(".")
    return last


def folder(path: Path, train: list[rows.Row], val: list[rows.Row] | None = None) -> Path:
    path.mkdir()
    write_rows(path / "train.jsonl", train)
    if val is not None:
        write_rows(path / "val.jsonl", val)
    return path


def test_empty_rows(train: Any, dataset: Path, tmp_path: Path) -> None:
    chosen = rows.load(dataset / "train.jsonl")
    assert "train.jsonl: has no rows; check" in sentence(train(folder(tmp_path / "a", [])))
    no_val = folder(tmp_path / "b", chosen, [])
    assert "val.jsonl: has no rows; check" in sentence(train(no_val))


def test_no_supervised_token(train: Any, dataset: Path) -> None:
    last = sentence(train(dataset, "max_seq_length=16"))
    assert "no row with a supervised token left; raise max_seq_length" in last


def test_one_row_and_few_validation_rows_train_with_a_warning(
    train: Any, dataset: Path, tmp_path: Path
) -> None:
    chosen = rows.load(dataset / "train.jsonl")
    result = train(folder(tmp_path / "few", chosen[:1], chosen[1:2]))
    assert result.returncode == 0, result.stderr
    assert "the training set has 1 row, fewer than batch_size=4" in result.stderr
    assert "the validation set has 1 row, fewer than batch_size=4" in result.stderr
    assert "add rows" in result.stderr
    assert (tmp_path / "run" / "adapter" / "adapters.safetensors").exists()


def test_contradictions_unknown_layers_and_early_stop_without_validation(
    train: Any, dataset: Path, tmp_path: Path
) -> None:
    last = sentence(train(dataset, "batch_size=2", "micro_batch_size=4", "bits=3", "dropout=1"))
    for part in ("micro_batch_size (4) must not exceed batch_size (2)", "bits must", "dropout"):
        assert part in last
    last = sentence(train(dataset, "targets=q_proj,Wqkv", out="a"))
    assert "'Wqkv' name no layer of this model" in last
    assert "embed_tokens, gate_proj" in last
    last = sentence(train(dataset, "rank_pattern=lm_head:8", out="b"))
    assert "rank_pattern: lm_head names no layer that targets=all-linear adapts" in last
    data = folder(tmp_path / "no_val", rows.load(dataset / "train.jsonl"))
    last = sentence(train(data, "early_stop_patience=2", out="c"))
    assert "early_stop_patience=2 needs validation rows" in last


def test_adapter_and_checkpoint_of_another_base(
    train: Any, dataset: Path, tmp_path: Path, tiny_models: dict[str, Path], ecellm: Any
) -> None:
    assert train(dataset, "save_every=1").returncode == 0
    other = tmp_path / "other"
    shutil.copytree(tiny_models["llama"], other)
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**config, "rms_norm_eps": 1e-4}))
    run = tmp_path / "run"
    test = dataset / "test.jsonl"
    last = sentence(ecellm("eval", "--model", other, "--adapter", run, "--data", test))
    assert "was trained on another base model" in last
    # A checkpoint that was copied into a run of another base.
    assert train(dataset, "max_steps=2", out="b", model=other).returncode == 0
    target = tmp_path / "b"
    shutil.rmtree(target / "checkpoints")
    shutil.copytree(run / "checkpoints", target / "checkpoints")
    status = json.loads((target / "status.json").read_text())
    (target / "status.json").write_text(json.dumps({**status, "state": "stopped"}))
    assert "was trained on another base model" in sentence(ecellm("resume", target))
