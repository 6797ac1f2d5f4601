"""A LoRA trained here is the LoRA that PEFT and PyTorch train.

Accumulation, clipping, warm-up, weight decay and lm_head targets are all on, over 20
steps and more than two epochs; see ``benchmarks/parity_peft.py`` for the reference.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import parity_peft
from ecellm_mlx.data import rows
from ecellm_mlx.sample import folder
from tests.cases import proof

TARGETS = {
    "phi": "q_proj,k_proj,v_proj,dense,fc1,fc2,lm_head",
    "mistral": "all-linear,lm_head",
    "llama": "all-linear,lm_head",
    "qwen3": "all-linear,lm_head",
    "gemma3_text": "all-linear",
    "smollm2": "all-linear",
}


@pytest.fixture(scope="session")
def untied_llama(
    tiny_models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A tiny Llama with an output head of its own, as Llama 2 has."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

    tied = AutoModelForCausalLM.from_pretrained(tiny_models["llama"], dtype=torch.float32)
    config = LlamaConfig(**{**tied.config.to_dict(), "tie_word_embeddings": False})
    torch.manual_seed(7)
    model = LlamaForCausalLM(config).to(torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.2)
    target = tmp_path_factory.mktemp("untied") / "llama"
    model.save_pretrained(target)
    AutoTokenizer.from_pretrained(tiny_models["llama"]).save_pretrained(target)
    return target


@pytest.mark.usefixtures("each_path")
@pytest.mark.parametrize(
    ("name", "weighting"),
    [
        proof("phi", "token"),
        proof("phi", "microbatch"),
        proof("mistral", "microbatch"),
        ("llama", "token"),
        proof("qwen3", "token"),
        proof("gemma3_text", "microbatch"),
    ],
)
def test_twenty_steps_equal_peft(
    name: str,
    weighting: str,
    tiny_models: dict[str, Path],
    untied_llama: Path,
    tmp_path: Path,
) -> None:
    model = untied_llama if name == "llama" else tiny_models[name]
    check(model, name, tmp_path, 30, f"loss_weighting={weighting}")


@pytest.mark.proof
def test_twenty_steps_of_a_real_model_equal_peft(smollm2: Path, tmp_path: Path) -> None:
    model = parity_peft.float32_folder(smollm2, tmp_path / "model")
    check(model, "smollm2", tmp_path, 8, "batch_size=2")


def check(model: Path, name: str, work: Path, count: int, *settings: str) -> None:
    data = parity_peft.shortest(dataset(work / "all"), work / "data", count)
    chosen = [*parity_peft.SETTINGS, "max_steps=20", f"targets={TARGETS[name]}", *settings]
    result = parity_peft.compare(model, data, work, chosen)
    assert len(result.ours) == len(result.theirs) == 20
    for ours, theirs in zip(result.ours, result.theirs, strict=True):
        assert ours.loss == pytest.approx(theirs.loss, rel=parity_peft.LOSS_TOLERANCE)
        assert ours.grad_norm == pytest.approx(theirs.grad_norm, rel=1e-3)
        assert ours.learning_rate == pytest.approx(theirs.learning_rate, rel=1e-6)
    assert result.difference <= parity_peft.ADAPTER_TOLERANCE
    # The comparison means something: steps were clipped, and adapters went far.
    assert any(step.grad_norm > 0.5 for step in result.ours)
    assert result.movement > 5 * parity_peft.ADAPTER_TOLERANCE


def dataset(target: Path) -> Path:
    target.mkdir()
    (target / "train.jsonl").write_bytes((folder() / "train.jsonl").read_bytes())
    return rows.dataset(target).train.parent
