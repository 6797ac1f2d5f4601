"""Adapters that PEFT made give PEFT's logits in MLX, and every number survives both ways."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ecellm_mlx.export import peft

from converters.packing import same_bits
from converters.verify import compare

from .peft_reference import mlx_logits, peft_adapter, peft_logits, tensors, torch_model

LINEAR = {
    "llama": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
    "phi": ["q_proj", "k_proj", "v_proj", "dense", "fc1", "fc2"],
}
LINEAR |= dict.fromkeys(("mistral", "qwen3", "gemma3_text"), LINEAR["llama"])
KINDS: dict[str, dict[str, Any]] = {
    "lora": {"r": 4, "lora_alpha": 16},
    "rslora": {"r": 3, "lora_alpha": 5, "use_rslora": True},
    "dora": {"r": 4, "lora_alpha": 6, "use_dora": True},
    "patterns": {
        "r": 4,
        "lora_alpha": 8,
        "rank_pattern": {"v_proj": 7, r"layers\.0\..*k_proj": 2},
        "alpha_pattern": {"k_proj": 5, "model.layers.1.self_attn.q_proj": 32},
    },
}


def settings(name: str, tied: bool, kind: str) -> dict[str, Any]:
    """All linear layers, and the ends of the model where the base and the kind allow it."""
    targets = [*LINEAR[name]]
    shared = tied and name != "phi"
    if not shared:
        targets.append("lm_head")
    if kind != "dora":
        targets.append("embed_tokens")
    config = {**KINDS[kind], "target_modules": targets}
    if shared and "embed_tokens" in targets:
        config["ensure_weight_tying"] = True
    return config


def same_tensors(left: Path, right: Path) -> bool:
    a, b = tensors(left), tensors(right)
    return a.keys() == b.keys() and all(same_bits(a[name], b[name]) for name in a)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize("name", LINEAR)
def test_logits_are_pefts_and_nothing_is_lost(
    name: str, tied: bool, kind: str, bases: Callable[..., Path], tmp_path: Path
) -> None:
    base = bases(name, tied)
    theirs = peft_adapter(torch_model(base), tmp_path / "p", **settings(name, tied, kind))
    peft.from_peft(tmp_path / "p", tmp_path / "m", base=str(base))

    ours = mlx_logits(base, tmp_path / "m")
    assert np.abs(ours - mlx_logits(base)).max() > 0.1, "the adapter must matter"
    assert np.abs(ours - theirs).max() < 1e-4
    assert np.abs(mlx_logits(base, tmp_path / "m", by_mlx_lm=True) - theirs).max() < 1e-4
    assert compare(tmp_path / "m", tmp_path / "p").equal

    peft.to_peft(tmp_path / "m", tmp_path / "p2")
    assert same_tensors(tmp_path / "p", tmp_path / "p2")
    before, after = (
        json.loads((tmp_path / f / "adapter_config.json").read_text()) for f in ("p", "p2")
    )
    assert after == before

    # As an adapter of MLX alone: its configuration is composed, not restored.
    config = json.loads((tmp_path / "m/adapter_config.json").read_text())
    del config["ecellm"]["peft"]
    (tmp_path / "m/adapter_config.json").write_text(json.dumps(config))
    peft.to_peft(tmp_path / "m", tmp_path / "p3", base=str(base))
    assert np.abs(peft_logits(base, tmp_path / "p3") - theirs).max() < 1e-5
    peft.from_peft(tmp_path / "p3", tmp_path / "m2", base=str(base))
    assert same_tensors(tmp_path / "m", tmp_path / "m2")
    assert json.loads((tmp_path / "m2/adapter_config.json").read_text()) == config
