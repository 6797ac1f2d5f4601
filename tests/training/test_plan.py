"""The memory plan: close to what is measured, sane for models that are not here."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ecellm_mlx import device, sample
from ecellm_mlx.data import batches, encoding, rows
from ecellm_mlx.device import mac, runtime
from ecellm_mlx.device.backend import mx
from ecellm_mlx.device.blas import Blas
from ecellm_mlx.distributed import ranks
from ecellm_mlx.errors import JobError
from ecellm_mlx.models import loading, lora, shape
from ecellm_mlx.training import adapter, memory, plan
from ecellm_mlx.training.recipe import Recipe, from_values
from ecellm_mlx.training.setup import create_run
from ecellm_mlx.training.step import OptimizerStep
from tests.cases import proof

CONFIGURATIONS = [
    proof("smollm2", {"micro_batch_size": 2, "max_seq_length": 192}, "auto"),
    proof("smollm2", {"micro_batch_size": 1, "max_seq_length": 320, "dropout": 0.1}, "auto"),
    proof(
        "smollm2",
        {"micro_batch_size": 4, "max_seq_length": 160, "grad_checkpoint": True},
        "auto",
    ),
    proof(
        "smollm2", {"micro_batch_size": 2, "targets": ["q_proj", "v_proj"], "rank": 64}, "auto"
    ),
    ("llama", {"micro_batch_size": 8, "max_seq_length": 256}, "auto"),
    ("mistral", {"micro_batch_size": 16, "max_seq_length": 384}, "auto"),
    ("phi", {"micro_batch_size": 12, "max_seq_length": 300, "dropout": 0.2}, "auto"),
    ("qwen3", {"micro_batch_size": 8, "max_seq_length": 256}, "auto"),
    ("gemma3_text", {"micro_batch_size": 8, "max_seq_length": 256}, "auto"),
    proof(
        "gemma3_text", {"micro_batch_size": 12, "max_seq_length": 384, "dropout": 0.1}, "auto"
    ),
    ("llama", {"micro_batch_size": 8, "max_seq_length": 256}, "plain"),
    ("llama", {"micro_batch_size": 4, "max_seq_length": 160, "grad_checkpoint": True}, "plain"),
    ("mistral", {"micro_batch_size": 16, "max_seq_length": 384}, "plain"),
    ("phi", {"micro_batch_size": 12, "max_seq_length": 300, "dropout": 0.2}, "plain"),
]


@pytest.mark.parametrize(("name", "settings", "path"), CONFIGURATIONS)
def test_prediction_is_within_15_percent_of_what_mlx_measures(
    name: str,
    settings: dict[str, Any],
    path: str,
    smollm2: Path,
    tiny_models: dict[str, Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("ECELLM_DEVICE", path)
    if name == "gemma3_text":
        # Plans count the logits of all threads at once. Those that build masks wait for each
        # other, and may then have theirs one after the other.
        monkeypatch.setenv("MKL_NUM_THREADS", "1")
    folder = smollm2 if name == "smollm2" else tiny_models[name]
    recipe = from_values({"batch_size": 48, "dropout": 0.0, "seed": 1, **settings})
    base = loading.load(folder)
    chosen = rows.load(sample.folder() / "train.jsonl")[::6]
    encoded = encoding.encode_rows(
        chosen, base.tokenizer, base.frame, recipe.max_seq_length
    ).kept
    lengths = [(len(e.tokens), len(e.target_positions)) for e in encoded]
    lora.attach(
        base.model,
        lora.LoraSpec(
            recipe.rank,
            recipe.scale,
            recipe.dropout,
            lora.resolve_targets(base.model, recipe.targets),
        ),
        seed=1,
    )
    if recipe.grad_checkpoint:
        adapter.recompute_blocks(base.model)
    step = OptimizerStep(base.model, recipe, 10, ranks.Ranks(None))
    order = sorted(range(len(encoded)), key=lambda i: -lengths[i][0])
    size = recipe.micro_batch_size
    parts = [order[i : i + size] for i in range(0, len(order), size)]
    talkative = max(parts, key=lambda part: sum(lengths[i][1] for i in part))
    two = [batches.collate(encoded, part, 0) for part in (parts[0], talkative)]
    step(0, two)
    mx.reset_peak_memory()
    step(1, two)
    measured = mx.get_peak_memory()
    predicted = memory.predict(
        shape.of(str(folder)), recipe, memory.workload(lengths, recipe), device.expected()
    )
    assert predicted.peak == pytest.approx(measured, rel=0.15), predicted


@pytest.mark.parametrize("model", ["ecellm-s", "ecellm-m", "ecellm-l", "smollm2-135m"])
def test_shapes_of_models_that_are_not_installed(model: str) -> None:
    from ecellm_mlx.models.registry import REGISTRY

    base = shape.of(model)
    billions = (base.block_parameters + base.embedding_parameters) / 1e9
    assert billions == pytest.approx(REGISTRY[model].parameters_b, rel=0.02)


def test_what_helps_helps() -> None:
    base, plain = shape.of("ecellm-m"), Recipe(micro_batch_size=8)
    work = memory.Workload(8, 1024, 64)

    def peak(**changes: Any) -> int:
        tried = replace(plain, **changes)
        return memory.predict(base, tried, work, device.METAL).peak

    assert peak(bits=4) < peak(bits=8) < peak()
    assert peak(grad_checkpoint=True) < 0.7 * peak()
    assert peak(targets=["q_proj"]) < peak()
    weights = memory.predict(base, replace(plain, bits=4), work, device.METAL).weights
    assert 4.0e9 < weights < 5.0e9


def test_train_refuses_what_cannot_fit(
    tiny: Path, dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtime, "memory_limit_gb", lambda: 0.045)
    settings = ["micro_batch_size=16", "batch_size=64"]
    with pytest.raises(JobError, match="does not fit") as caught:
        create_run(str(tiny), str(dataset), None, settings, tmp_path / "run")
    assert "--set micro_batch_size=" in str(caught.value)
    assert "--force" in str(caught.value)
    assert not (tmp_path / "run").exists()
    assert create_run(str(tiny), str(dataset), None, settings, tmp_path / "run", force=True)


def test_the_command_plans_without_model_or_data(ecellm: Any) -> None:
    done = ecellm("plan", "--model", "ecellm-l", "--recipe", "ecellm-l", "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["peak_gb"] > document["weights_gb"] > 20
    assert document["macs"]["8"] is False
    assert document["rows"] == plan.ECINSTRUCT_ROWS
    assert "assumed" in document["lengths_from"]
    given = ecellm("plan", "--model", "smollm2-135m", "--tokens-per-second", "100")
    assert "time: about" in given.stdout
    assert ecellm("plan", "--model", "no-such-model").returncode == 1


def test_wired_limit_on_metal_only(monkeypatch: pytest.MonkeyPatch) -> None:
    wired: list[int] = []
    assert mac.wire_memory() is None
    monkeypatch.setattr(runtime, "prepare", lambda: runtime.Runtime("metal", Blas("a", None)))
    monkeypatch.setattr(
        mx, "device_info", lambda: {"max_recommended_working_set_size": 11 * 2**30}
    )
    monkeypatch.setattr(mx, "set_wired_limit", wired.append)
    assert mac.wire_memory() == 11 * 2**30
    assert wired == [11 * 2**30]

    def too_old(_limit: int) -> None:
        raise ValueError("macOS 15 is needed")

    monkeypatch.setattr(mx, "set_wired_limit", too_old)
    assert mac.wire_memory() is None
