"""Phi-2's old layout: bases load, adapters made for it convert, and go back exactly."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ecellm_mlx.device.backend import mx
from ecellm_mlx.export import peft
from ecellm_mlx.models.config import read_config

from converters import phi_layout
from converters.adapter import LoraModule
from converters.errors import ConversionError
from converters.mlx_adapter import read_mlx
from converters.packing import same_bits
from converters.verify import compare

from . import old_phi
from .peft_reference import (
    TOKENS,
    mlx_logits,
    peft_adapter,
    peft_logits,
    tensors,
    torch_model,
)

# What the paper's eCeLLM-S was trained with.
PAPER = ["Wqkv", "out_proj", "fc1", "fc2", "linear"]
KINDS: dict[str, dict[str, Any]] = {
    "lora": {"r": 4, "lora_alpha": 4},
    "rslora": {"r": 3, "lora_alpha": 5, "use_rslora": True},
    "dora": {"r": 4, "lora_alpha": 6, "use_dora": True},
    "patterns": {"r": 4, "rank_pattern": {"Wqkv": 6}, "alpha_pattern": {"fc1": 2}},
}


@pytest.fixture
def old(tmp_path: Path) -> tuple[Path, old_phi.OldPhi]:
    return tmp_path / "base", old_phi.make(tmp_path / "base")


def test_a_base_in_the_old_layout_computes_what_its_code_does(
    old: tuple[Path, old_phi.OldPhi],
) -> None:
    base, model = old
    with torch.no_grad():
        expected = model(torch.tensor(TOKENS)).logits.numpy()
    assert np.abs(mlx_logits(base) - expected).max() < 1e-4
    config = read_config(base)
    assert config["model_type"] == "phi"
    assert config["num_hidden_layers"] == 2
    assert int(config["partial_rotary_factor"] * 8) == 6


def test_old_and_native_layout_are_the_same_model(
    bases: Callable[..., Path], tmp_path: Path
) -> None:
    """A native checkpoint, renamed into the old layout by its published names."""
    native = bases("phi", tied=False)
    weights = mx.load(str(native / "model.safetensors"))
    old: dict[str, mx.array] = {}
    for name, array in weights.items():
        module, _, leaf = name.rpartition(".")
        if module.endswith(("q_proj", "k_proj", "v_proj")):
            continue
        renamed = {"model.final_layernorm": "lm_head.ln"}.get(module) or (
            module.replace("model.layers", "transformer.h").replace("input_layernorm", "ln")
            if module.endswith("input_layernorm")
            else phi_layout.legacy_name(module)
        )
        old[f"{renamed}.{leaf}"] = array
    for layer in range(2):
        for leaf in ("weight", "bias"):
            parts = [weights[f"model.layers.{layer}.self_attn.{p}_proj.{leaf}"] for p in "qkv"]
            old[f"transformer.h.{layer}.mixer.Wqkv.{leaf}"] = mx.concatenate(parts)
    folder = tmp_path / "old"
    folder.mkdir()
    mx.save_safetensors(str(folder / "model.safetensors"), old)
    config = {**old_phi.CONFIG, "n_inner": 48, "rotary_dim": 4}
    (folder / "config.json").write_text(json.dumps(config))
    assert np.array_equal(mlx_logits(folder), mlx_logits(native))


@pytest.mark.parametrize("kind", KINDS)
def test_an_old_adapter_gives_its_logits_and_comes_back(
    old: tuple[Path, old_phi.OldPhi], tmp_path: Path, kind: str
) -> None:
    base, model = old
    theirs = peft_adapter(model, tmp_path / "p", target_modules=PAPER, **KINDS[kind])
    assert "base_model.model.transformer.h.0.mixer.Wqkv.lora_A.weight" in tensors(
        tmp_path / "p"
    )
    peft.from_peft(tmp_path / "p", tmp_path / "m", base=str(base))
    assert np.abs(mlx_logits(base, tmp_path / "m") - theirs).max() < 1e-4
    assert compare(tmp_path / "m", tmp_path / "p").equal
    modules = read_mlx(tmp_path / "m").modules
    assert same_bits(
        modules["model.layers.0.self_attn.q_proj"].a,
        modules["model.layers.0.self_attn.v_proj"].a,
    )
    peft.to_peft(tmp_path / "m", tmp_path / "back", base=str(base))
    before, after = tensors(tmp_path / "p"), tensors(tmp_path / "back")
    assert before.keys() == after.keys()
    assert all(same_bits(before[name], after[name]) for name in before)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "targets", [["q_proj", "k_proj", "v_proj", "fc1", "lm_head"], ["k_proj"]]
)
def test_a_native_adapter_becomes_an_old_one_and_comes_back(
    old: tuple[Path, old_phi.OldPhi],
    bases: Callable[..., Path],
    tmp_path: Path,
    kind: str,
    targets: list[str],
) -> None:
    """q, k and v with updates of their own need a block-diagonal B at the sum of the ranks."""
    if kind == "dora" and len(targets) == 1:
        targets = ["fc1"]
    base, model = old
    native = tmp_path / "native"
    native.mkdir()
    weights = mx.load(str(base / "model.safetensors"))
    mx.save_safetensors(
        str(native / "model.safetensors"),
        phi_layout.native_weights(weights, [32, 32, 32]),
        metadata={"format": "pt"},
    )
    config = {k: v for k, v in read_config(base).items() if k != "auto_map"}
    (native / "config.json").write_text(json.dumps(config))
    theirs = peft_adapter(
        torch_model(native), tmp_path / "p", target_modules=targets,
        **{**KINDS[kind], "rank_pattern": {"k_proj": 2} if kind == "patterns" else {}},
    )  # fmt: skip
    peft.from_peft(tmp_path / "p", tmp_path / "m", base=str(native))
    peft.to_peft(tmp_path / "m", tmp_path / "old", base=str(base), layout="legacy")
    assert np.abs(peft_logits(model, tmp_path / "old") - theirs).max() < 1e-4
    assert compare(tmp_path / "m", tmp_path / "old").equal

    peft.from_peft(tmp_path / "old", tmp_path / "m2", base=str(native))
    first, second = tensors(tmp_path / "m"), tensors(tmp_path / "m2")
    assert first.keys() == second.keys()
    assert all(same_bits(first[name], second[name]) for name in first)


def test_a_part_of_qkv_with_dora_is_refused(bases: Callable[..., Path], tmp_path: Path) -> None:
    base = bases("phi", tied=False)
    peft_adapter(
        torch_model(base), tmp_path / "p", r=2, target_modules=["q_proj"], use_dora=True
    )
    peft.from_peft(tmp_path / "p", tmp_path / "m", base=str(base))
    with pytest.raises(ConversionError, match="DoRA on a part of q, k and v"):
        peft.to_peft(tmp_path / "m", tmp_path / "old", base=str(base), layout="legacy")
    assert not (tmp_path / "old").exists()


def test_unequal_scales_that_the_old_layout_cannot_hold_are_refused() -> None:
    # So many values that four thirds of some of them lose a bit.
    a, b = mx.random.normal((4, 2)), mx.random.normal((2, 300))
    parts = [LoraModule(a, b, 1.0), LoraModule(a + 1, b, 4 / 3), LoraModule(a, b, 1.0)]
    with pytest.raises(ConversionError, match=r"scales 1\.0, 1\.33.*--phi-layout native"):
        phi_layout.join(parts, [300, 300, 300])


def test_only_phi_has_an_old_layout(bases: Callable[..., Path], tmp_path: Path) -> None:
    base = bases("llama", tied=True)
    peft_adapter(torch_model(base), tmp_path / "p", r=2, target_modules=["q_proj"])
    peft.from_peft(tmp_path / "p", tmp_path / "m", base=str(base))
    with pytest.raises(ConversionError, match="only Phi has a legacy layout"):
        peft.to_peft(tmp_path / "m", tmp_path / "old", layout="legacy")


def test_an_old_phi_adapter_is_not_for_llama(
    old: tuple[Path, old_phi.OldPhi], bases: Callable[..., Path], tmp_path: Path
) -> None:
    peft_adapter(old[1], tmp_path / "p", target_modules=PAPER, r=2)
    with pytest.raises(ConversionError, match="another architecture than llama"):
        peft.from_peft(tmp_path / "p", tmp_path / "m", base=str(bases("llama", tied=True)))
