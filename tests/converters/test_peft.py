"""Conversions in both directions, beyond the matrix in test_peft_logits."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ecellm_mlx.device.backend import mx
from ecellm_mlx.device.dequantize import dequantize
from ecellm_mlx.export import peft as exporting
from ecellm_mlx.models import loading, lora
from ecellm_mlx.models.base_layers import base_model
from ecellm_mlx.models.fingerprint import base_fingerprint

from converters.packing import same_bits
from converters.peft import to_peft
from converters.verify import compare

from .peft_reference import (
    TOKENS,
    mlx_logits,
    peft_adapter,
    peft_logits,
    tensors,
    torch_model,
)

Bases = Callable[..., Path]
LINEAR = ("q", "k", "v", "o", "gate", "up", "down")
PEFT_FILE = "adapter_model.safetensors"


def difference(base: Path, adapter: Path, peft: Path) -> float:
    """Largest difference between the logits of MLX and of PEFT."""
    return float(np.abs(mlx_logits(base, adapter) - peft_logits(base, peft)).max())


def mlx_adapter(folder: Path, base: Path, targets: list[str], **spec: Any) -> Path:
    """An adapter of our own layers with random A and B."""
    network, config = loading.open_lazily(base)
    modules = lora.resolve_targets(network, targets)
    adapter = lora.LoraSpec(4, spec.pop("scale", 2.0), 0.05, modules, **spec)
    lora.attach(network, adapter, seed=3)
    noise = [
        (name, mx.random.normal(array.shape) * 0.1)
        for name, array in lora.parameters(network).items()
        if name.endswith("lora_b")
    ]
    network.load_weights(noise, strict=False)
    folder.mkdir()
    about = {
        "name": str(base),
        "model_type": config["model_type"],
        "fingerprint": base_fingerprint(base),
        "layers": len(network.layers),
    }
    lora.save(folder, network, adapter, {"base": about})
    return folder


@pytest.mark.parametrize("scale", [2.0, 20.0, 1 / 3, 0.1])
def test_an_mlx_adapter_comes_back_as_it_was(
    bases: Bases, tmp_path: Path, scale: float
) -> None:
    base = bases("mistral", tied=False)
    mlx_adapter(tmp_path / "a", base, ["all-linear", "lm_head"], scale=scale)
    exporting.to_peft(tmp_path / "a", tmp_path / "p")
    exporting.from_peft(tmp_path / "p", tmp_path / "b", base=str(base))
    first, second = tensors(tmp_path / "a"), tensors(tmp_path / "b")
    assert first.keys() == second.keys()
    assert all(same_bits(first[name], second[name]) for name in first)
    configs = [json.loads((tmp_path / f / "adapter_config.json").read_text()) for f in "ab"]
    assert configs[0] == configs[1]
    assert compare(tmp_path / "a", tmp_path / "p").bit_identical
    assert (
        np.abs(mlx_logits(base, tmp_path / "a") - peft_logits(base, tmp_path / "p")).max()
        < 1e-4
    )


def test_without_the_base_known_names_are_trusted(bases: Bases, tmp_path: Path) -> None:
    base = bases("llama", tied=True)
    mlx_adapter(tmp_path / "a", base, ["all-linear"])
    to_peft(tmp_path / "a", tmp_path / "p", base_name=str(base), model_type="llama")
    config = json.loads((tmp_path / "p/adapter_config.json").read_text())
    assert "model.layers.0.self_attn.q_proj" in config["target_modules"]
    assert (
        np.abs(mlx_logits(base, tmp_path / "a") - peft_logits(base, tmp_path / "p")).max()
        < 1e-4
    )


@pytest.mark.parametrize(
    ("targets", "expected"),
    [
        (["q_proj"], ["q_proj"]),
        (["model.layers.1.self_attn.q_proj"], ["model.layers.1.self_attn.q_proj"]),
        (
            ["all-linear"],
            sorted(f"{part}_proj" for part in ["q", "k", "v", "o", "gate", "up", "down"]),
        ),
    ],
)
def test_targets_are_named_by_their_last_part_where_that_is_exact(
    bases: Bases, tmp_path: Path, targets: list[str], expected: list[str]
) -> None:
    mlx_adapter(tmp_path / "a", bases("llama", tied=True), targets)
    exporting.to_peft(tmp_path / "a", tmp_path / "p")
    config = json.loads((tmp_path / "p/adapter_config.json").read_text())
    assert config["target_modules"] == expected


@pytest.mark.parametrize(
    "settings",
    [
        {"target_modules": "all-linear"},
        {"target_modules": r".*\.(q_proj|down_proj)"},
        {"target_modules": ["q_proj", "up_proj"], "layers_to_transform": [1]},
        {"target_modules": ["q_proj"], "layers_to_transform": 0, "layers_pattern": "layers"},
        {
            "target_modules": ["q_proj", "k_proj"],
            "exclude_modules": ["layers.0.self_attn.q_proj"],
        },
        {"target_modules": ["q_proj", "k_proj"], "exclude_modules": r".*1\.self_attn\.k_proj"},
        {"target_modules": ["v_proj"], "fan_in_fan_out": False, "lora_dropout": 0.25},
        {"target_modules": ["v_proj", "lm_head"], "rank_pattern": {"lm_head": 5}},
    ],
    ids=lambda settings: " ".join(settings),
)
def test_every_way_to_choose_layers(
    bases: Bases, tmp_path: Path, settings: dict[str, Any]
) -> None:
    base = bases("mistral", tied=False)
    theirs = peft_adapter(torch_model(base), tmp_path / "p", r=3, lora_alpha=7, **settings)
    # PEFT writes all-linear out as names; other tools do not.
    path = tmp_path / "p/adapter_config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "target_modules": settings["target_modules"]}))
    exporting.from_peft(tmp_path / "p", tmp_path / "m", base=str(base))
    assert np.abs(mlx_logits(base, tmp_path / "m") - theirs).max() < 1e-4
    exporting.to_peft(tmp_path / "m", tmp_path / "back")
    again = json.loads((tmp_path / "back/adapter_config.json").read_text())
    assert again == json.loads(path.read_text())
    assert tensors(tmp_path / "p").keys() == tensors(tmp_path / "back").keys()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_dtypes_stay(bases: Bases, tmp_path: Path, dtype: str) -> None:
    base = bases("llama", tied=True)
    peft_adapter(
        torch_model(base), tmp_path / "p", r=4, lora_alpha=8, rank_pattern={"k_proj": 3},
        target_modules=["q_proj", "k_proj", "v_proj"],
    )  # fmt: skip
    kept = {n: a.astype(getattr(mx, dtype)) for n, a in tensors(tmp_path / "p").items()}
    mx.save_safetensors(str(tmp_path / "p" / PEFT_FILE), kept, metadata={"format": "pt"})
    exporting.from_peft(tmp_path / "p", tmp_path / "m", base=str(base))
    assert {str(a.dtype) for a in tensors(tmp_path / "m").values()} == {f"mlx.core.{dtype}"}
    exporting.to_peft(tmp_path / "m", tmp_path / "back")
    back = tensors(tmp_path / "back")
    assert back.keys() == kept.keys()
    assert all(same_bits(back[name], kept[name]) for name in kept)


def made_by_peft(bases: Bases, folder: Path, **config: Any) -> Path:
    base = bases("llama", tied=True)
    settings = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "down_proj"], **config}
    peft_adapter(torch_model(base), folder, **settings)
    return base


def test_shards_are_read_as_one(bases: Bases, tmp_path: Path) -> None:
    base = made_by_peft(bases, tmp_path / "p")
    whole = tensors(tmp_path / "p")
    mx.eval(whole)
    (tmp_path / "p" / PEFT_FILE).unlink()
    places = {}
    for number, names in enumerate((sorted(whole)[::2], sorted(whole)[1::2]), 1):
        file = f"adapter_model-0000{number}-of-00002.safetensors"
        mx.save_safetensors(str(tmp_path / "p" / file), {name: whole[name] for name in names})
        places |= dict.fromkeys(names, file)
    index = tmp_path / "p/adapter_model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": places}))
    exporting.from_peft(tmp_path / "p", tmp_path / "m", base=str(base))
    exporting.to_peft(tmp_path / "m", tmp_path / "back")
    back = tensors(tmp_path / "back")
    assert all(same_bits(back[name], whole[name]) for name in whole)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_pytorch_files_are_read_without_pytorch(
    bases: Bases, tmp_path: Path, dtype: str
) -> None:
    import torch
    from safetensors.torch import load_file

    from converters.torch_file import read_torch

    made_by_peft(bases, tmp_path / "p")
    state = {
        name: tensor.to(getattr(torch, dtype))
        for name, tensor in load_file(tmp_path / "p" / PEFT_FILE).items()
    }
    # A view and a parameter: both are common in the wild.
    first = next(iter(state))
    state[first] = torch.nn.Parameter(state[first].T.contiguous().T)
    torch.save(state, tmp_path / "p/adapter_model.bin")
    arrays = read_torch(tmp_path / "p/adapter_model.bin")
    assert list(arrays) == list(state)
    for name, tensor in state.items():
        expected = mx.array(tensor.detach().float().numpy()).astype(getattr(mx, dtype))
        assert same_bits(arrays[name], expected)


def test_an_adapter_model_bin_converts(bases: Bases, tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file

    base = made_by_peft(bases, tmp_path / "p")
    state = load_file(tmp_path / "p" / PEFT_FILE)
    torch.save(state, tmp_path / "p/adapter_model.bin")
    shutil.copytree(tmp_path / "p", tmp_path / "bin")
    (tmp_path / "bin" / PEFT_FILE).unlink()
    exporting.from_peft(tmp_path / "bin", tmp_path / "m", base=str(base))
    assert compare(tmp_path / "m", tmp_path / "p").bit_identical


def test_unknown_settings_are_kept(bases: Bases, tmp_path: Path) -> None:
    base = made_by_peft(bases, tmp_path / "p")
    path = tmp_path / "p/adapter_config.json"
    config = {**json.loads(path.read_text()), "trained_by": {"team": "search", "run": 7}}
    path.write_text(json.dumps(config))
    said: list[str] = []
    exporting.from_peft(tmp_path / "p", tmp_path / "m", base=str(base), warn=said.append)
    assert "trained_by" in said[0]
    exporting.to_peft(tmp_path / "m", tmp_path / "back")
    assert json.loads((tmp_path / "back/adapter_config.json").read_text()) == config


def test_an_adapter_that_changed_since_is_described_anew(bases: Bases, tmp_path: Path) -> None:
    base = made_by_peft(bases, tmp_path / "p")
    exporting.from_peft(tmp_path / "p", tmp_path / "m", base=str(base))
    path = tmp_path / "m/adapter_config.json"
    config = json.loads(path.read_text())
    config["lora_parameters"]["scale"] = 5.0
    path.write_text(json.dumps(config))
    exporting.to_peft(tmp_path / "m", tmp_path / "back", base=str(base))
    assert json.loads((tmp_path / "back/adapter_config.json").read_text())["lora_alpha"] == 20
    assert (
        np.abs(mlx_logits(base, tmp_path / "m") - peft_logits(base, tmp_path / "back")).max()
        < 1e-4
    )


def test_dora_on_a_quantized_base(bases: Bases, tmp_path: Path) -> None:
    """MLX computes on the 4-bit base, PEFT on the same values as floats."""
    from mlx.utils import tree_flatten
    from mlx_lm.utils import quantize_model, save_model

    plain = bases("llama", tied=True)
    network, config = loading.open_lazily(plain)
    network, config = quantize_model(network, config, group_size=32, bits=4)
    folder = tmp_path / "base"
    save_model(folder, network)
    (folder / "config.json").write_text(json.dumps(config))
    adapter = mlx_adapter(tmp_path / "a", folder, ["q_proj", "up_proj"], dora=True)
    exporting.to_peft(adapter, tmp_path / "p")
    ours = mlx_logits(folder, adapter)

    dequantize(network, mx.float32)
    floats = tmp_path / "floats"
    shutil.copytree(plain, floats)
    weights = dict(tree_flatten(network.parameters()))
    mx.save_safetensors(str(floats / "model.safetensors"), weights, metadata={"format": "pt"})
    assert np.abs(ours - peft_logits(floats, tmp_path / "p")).max() < 1e-4


def test_copies_of_base_layers_are_proven_and_restored(bases: Bases, tmp_path: Path) -> None:
    """PEFT saves the output layer itself beside its adapter, as the paper's recipe makes it."""
    base = bases("mistral", tied=False)
    peft_adapter(torch_model(base), tmp_path / "p", r=2, target_modules=["q_proj", "lm_head"])
    copy = "base_model.model.lm_head.base_layer.weight"
    assert copy in tensors(tmp_path / "p")
    exporting.from_peft(tmp_path / "p", tmp_path / "m", base=str(base))
    assert not any("base_layer" in name for name in tensors(tmp_path / "m"))
    exporting.to_peft(tmp_path / "m", tmp_path / "back")
    assert same_bits(tensors(tmp_path / "back")[copy], tensors(tmp_path / "p")[copy])


def test_the_base_says_which_layers_there_are(bases: Bases) -> None:
    described = base_model(str(bases("llama", tied=True)))
    assert described.shares_embedding
    assert described.tied_in_peft
    assert described.blocks.count == 2
    assert described.modules["model.layers.1.mlp.down_proj"].width == 48
    untied = base_model(str(bases("phi", tied=False)))
    assert not untied.shares_embedding
    assert untied.modules["lm_head"].out == 96


def test_mlx_lm_loads_our_adapter(bases: Bases, tmp_path: Path) -> None:
    base = bases("llama", tied=True)
    mlx_adapter(tmp_path / "a", base, ["all-linear"])
    ours = mlx_logits(base, tmp_path / "a")
    theirs = mlx_logits(base, tmp_path / "a", by_mlx_lm=True)
    assert np.abs(ours - theirs).max() < 1e-5
    assert len(TOKENS[0]) == ours.shape[1]
