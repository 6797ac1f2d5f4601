"""Adapters attach where they are told to, and never load as a silent no-op."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ecellm_mlx.device.backend import mx
from ecellm_mlx.device.dequantize import dequantize
from ecellm_mlx.errors import AdapterError, RecipeError
from ecellm_mlx.models import loading, lora

TOKENS = mx.array([[5, 400, 77, 1234]])


def saved(folder: Path, base: loading.LoadedModel, fingerprint: str) -> Path:
    spec = lora.LoraSpec(2, 1.0, 0.0, lora.resolve_targets(base.model, ["q_proj", "down_proj"]))
    lora.attach(base.model, spec, seed=0)
    folder.mkdir()
    lora.save(folder, base.model, spec, {"base": {"name": "b", "fingerprint": fingerprint}})
    lora.detach(base.model)
    return folder


def test_targets_match_as_in_peft(tiny_models: dict[str, Path]) -> None:
    model = loading.load(tiny_models["mistral"]).model
    assert lora.resolve_targets(model, ["q_proj"]) == (
        "model.layers.0.self_attn.q_proj",
        "model.layers.1.self_attn.q_proj",
    )
    everything = lora.resolve_targets(model, ["all-linear"])
    assert len(everything) == 14
    assert "lm_head" not in everything
    assert lora.resolve_targets(model, ["lm_head", "embed_tokens"]) == (
        "lm_head",
        "model.embed_tokens",
    )


def test_unknown_targets_are_listed_with_the_names_that_exist(tiny: Path) -> None:
    model = loading.load(tiny).model
    with pytest.raises(RecipeError, match=r"'Wqkv', 'lm_head'.*q_proj") as caught:
        lora.resolve_targets(model, ["q_proj", "Wqkv", "lm_head"])
    assert "expected" in str(caught.value)


def test_new_adapter_changes_nothing_and_detaches(tiny: Path) -> None:
    base = loading.load(tiny)
    before = base.model(TOKENS)
    spec = lora.LoraSpec(4, 2.0, 0.0, lora.resolve_targets(base.model, ["all-linear"]))
    lora.attach(base.model, spec, seed=0)
    assert mx.array_equal(base.model(TOKENS), before)
    assert all(n.endswith(("lora_a", "lora_b")) for n in lora.parameters(base.model))
    lora.detach(base.model)
    assert mx.array_equal(base.model(TOKENS), before)


def test_adapter_of_another_base_is_refused(tiny: Path, tmp_path: Path) -> None:
    base = loading.load(tiny)
    folder = saved(tmp_path / "a", base, "of-another-model")
    with pytest.raises(AdapterError, match="another base"):
        lora.load(base.model, folder, base=base.fingerprint)


def test_missing_unknown_and_misshapen_tensors_are_all_listed(
    tiny: Path, tmp_path: Path
) -> None:
    base = loading.load(tiny)
    folder = saved(tmp_path / "a", base, base.fingerprint)
    path = folder / "adapters.safetensors"
    weights = mx.load(str(path))
    mx.eval(weights)
    del weights["model.layers.0.self_attn.q_proj.lora_a"]
    weights["model.layers.9.self_attn.q_proj.lora_a"] = mx.zeros((32, 2))
    weights["model.layers.1.mlp.down_proj.lora_b"] = mx.zeros((2, 31))
    mx.save_safetensors(str(path), weights)
    with pytest.raises(AdapterError) as caught:
        lora.load(base.model, folder, base=base.fingerprint)
    message = str(caught.value)
    assert "layers.0.self_attn.q_proj.lora_a is missing" in message
    assert "layers.9.self_attn.q_proj.lora_a is unknown" in message
    assert "(2, 31), not (2, 32)" in message


def test_peft_folder_is_recognized(tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 4}))
    with pytest.raises(AdapterError, match="from-peft"):
        lora.read_info(tmp_path, loading.load(tiny).model)


def test_dequantized_base_equals_the_quantized_one(tiny: Path) -> None:
    model = loading.load(tiny).model
    loading.quantize(model, 8)
    quantized = model(TOKENS)
    dequantize(model, mx.float32)
    assert not any(hasattr(m, "bits") for _, m in model.named_modules())
    assert mx.abs(model(TOKENS) - quantized).max().item() < 1e-3
