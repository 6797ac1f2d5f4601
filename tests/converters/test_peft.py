"""PEFT and MLX adapters are the same update, proven with real PEFT and PyTorch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ecellm_mlx.backend import mx
from ecellm_mlx.models import loading, lora

from converters.errors import ConversionError
from converters.peft import from_peft, read_mlx, to_peft
from converters.verify import compare

TOKENS = [[5, 400, 77, 1234, 9, 250]]
TARGETS = {
    "llama": ["all-linear"],
    "mistral": ["q_proj", "v_proj", "down_proj", "lm_head"],
    "phi": ["q_proj", "k_proj", "v_proj", "dense", "fc1", "fc2", "lm_head"],
}


def make_adapter(folder: Path, base: Path, targets: list[str], **spec: Any) -> mx.array:
    """Write an adapter with random A and B; returns the model's logits with it on."""
    loaded = loading.load(base)
    modules = lora.resolve_targets(loaded.model, targets)
    adapter = lora.LoraSpec(4, spec.pop("scale", 2.0), 0.05, modules, **spec)
    lora.attach(loaded.model, adapter, seed=3)
    parameters = lora.parameters(loaded.model)
    noise = [
        (name, mx.random.normal(array.shape) * 0.1)
        for name, array in parameters.items()
        if name.endswith("lora_b")
    ]
    loaded.model.load_weights(noise, strict=False)
    loaded.model.eval()
    folder.mkdir()
    ecellm = {
        "base": {
            "name": str(base),
            "model_type": loaded.config["model_type"],
            "fingerprint": loaded.fingerprint,
            "layers": len(loaded.model.layers),
        }
    }
    lora.save(folder, loaded.model, adapter, ecellm)
    return loaded.model(mx.array(TOKENS))


def peft_logits(base: Path, adapter: Path) -> np.ndarray:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    model = PeftModel.from_pretrained(model, adapter).eval()
    with torch.no_grad():
        return model(torch.tensor(TOKENS)).logits.numpy()


@pytest.mark.parametrize("name", ["llama", "mistral", "phi"])
def test_peft_computes_our_logits(
    name: str, tiny_models: dict[str, Path], tmp_path: Path
) -> None:
    base = tiny_models[name]
    ours = np.array(make_adapter(tmp_path / "mlx", base, TARGETS[name]))
    to_peft(tmp_path / "mlx", tmp_path / "peft", base=str(base), model_type=name)
    theirs = peft_logits(base, tmp_path / "peft")
    plain = np.array(loading.load(base).model(mx.array(TOKENS)))
    assert np.abs(ours - plain).max() > 0.1, "the adapter must matter"
    assert np.abs(ours - theirs).max() < 1e-4


def test_dora_logits(tiny: Path, tmp_path: Path) -> None:
    ours = np.array(make_adapter(tmp_path / "mlx", tiny, ["q_proj", "up_proj"], dora=True))
    to_peft(tmp_path / "mlx", tmp_path / "peft", base=str(tiny), model_type="llama")
    assert np.abs(ours - peft_logits(tiny, tmp_path / "peft")).max() < 1e-4


@pytest.mark.parametrize("rslora", [False, True])
def test_an_adapter_made_by_peft_gives_its_logits_here(
    tiny: Path, tmp_path: Path, rslora: bool
) -> None:
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(tiny, dtype=torch.float32)
    config = LoraConfig(
        r=3, lora_alpha=7, target_modules="all-linear", use_rslora=rslora,
        init_lora_weights=False, task_type="CAUSAL_LM",
    )  # fmt: skip
    model = get_peft_model(model, config).eval()
    model.save_pretrained(tmp_path / "peft")
    with torch.no_grad():
        theirs = model(torch.tensor(TOKENS)).logits.numpy()
    from_peft(tmp_path / "peft", tmp_path / "mlx", layers=2, ecellm={})
    base = loading.load(tiny)
    lora.load(base.model, tmp_path / "mlx", base=base.fingerprint)
    assert np.abs(np.array(base.model(mx.array(TOKENS))) - theirs).max() < 1e-4
    assert compare(tmp_path / "mlx", tmp_path / "peft").bit_identical


def test_round_trip_is_bit_identical(tiny: Path, tmp_path: Path) -> None:
    make_adapter(tmp_path / "a", tiny, ["all-linear"], scale=1 / 3)
    to_peft(tmp_path / "a", tmp_path / "p", base=str(tiny), model_type="llama")
    from_peft(tmp_path / "p", tmp_path / "b", layers=2, ecellm={})
    first, second = read_mlx(tmp_path / "a"), read_mlx(tmp_path / "b")
    assert first.modules.keys() == second.modules.keys()
    for module, (a, b, _) in first.modules.items():
        assert mx.array_equal(a, second.modules[module][0])
        assert mx.array_equal(b, second.modules[module][1])
    assert second.scale == pytest.approx(first.scale, rel=1e-15)


def test_mlx_lm_loads_our_adapter(tiny: Path, tmp_path: Path) -> None:
    from mlx_lm.utils import load_adapters

    ours = make_adapter(tmp_path / "mlx", tiny, ["all-linear"])
    model = load_adapters(loading.load(tiny).model, str(tmp_path / "mlx"))
    model.eval()
    assert mx.abs(model(mx.array(TOKENS)) - ours).max().item() < 1e-5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"peft_type": "IA3"}, "IA3"),
        ({"lora_bias": True}, "lora_bias"),
        ({"bias": "all"}, "bias"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"rank_pattern": {"q_proj": 8}}, "rank_pattern"),
        ({"layer_replication": [[0, 1]]}, "layer_replication"),
        ({"r": 8}, "rank 4, not 8"),
    ],
)
def test_what_cannot_be_represented_is_refused_by_name(
    tiny: Path, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    make_adapter(tmp_path / "a", tiny, ["q_proj"])
    to_peft(tmp_path / "a", tmp_path / "p", base=str(tiny), model_type="llama")
    path = tmp_path / "p" / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(ConversionError, match=message):
        from_peft(tmp_path / "p", tmp_path / "b", layers=2, ecellm={})
    assert not (tmp_path / "b").exists()


def test_unknown_architecture_is_refused(tiny: Path, tmp_path: Path) -> None:
    make_adapter(tmp_path / "a", tiny, ["q_proj"])
    with pytest.raises(ConversionError, match="mamba"):
        to_peft(tmp_path / "a", tmp_path / "p", base="x", model_type="mamba")


def test_truncated_adapter_is_refused(tiny: Path, tmp_path: Path) -> None:
    make_adapter(tmp_path / "a", tiny, ["q_proj"])
    path = tmp_path / "a" / "adapters.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ConversionError, match=r"adapters\.safetensors is damaged"):
        read_mlx(tmp_path / "a")
