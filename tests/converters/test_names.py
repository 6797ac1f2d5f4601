"""The architectures that are said to have the same names do, in transformers and mlx-lm."""

from __future__ import annotations

import importlib
import warnings
from pathlib import Path
from typing import Any

import mlx.nn as nn
import pytest
from mlx_lm.utils import MODEL_REMAPPING

from ecellm_mlx.models import base_layers

from converters import architectures
from converters.errors import ConversionError

from .peft_reference import make_base


def mlx_layers(config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    kind = config["model_type"]
    module = importlib.import_module(f"mlx_lm.models.{MODEL_REMAPPING.get(kind, kind)}")
    model = module.Model(module.ModelArgs.from_dict(config))
    kinds = (nn.Linear, nn.Embedding)
    return {n: tuple(m.weight.shape) for n, m in model.named_modules() if isinstance(m, kinds)}


@pytest.mark.parametrize("name", architectures.ARCHITECTURES)
def test_names_and_shapes_agree(name: str) -> None:
    from transformers import AutoConfig

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        settings = AutoConfig.for_model(name, num_hidden_layers=2)
        config = {k: v for k, v in settings.to_dict().items() if v is not None}
        rotary = config.get("rope_parameters") or {}
        config.setdefault("rope_theta", rotary.get("rope_theta", 10_000.0))
        if "partial_rotary_factor" in rotary:
            config["partial_rotary_factor"] = rotary["partial_rotary_factor"]
        theirs = base_layers.hugging_face_layers({**settings.to_dict(), "model_type": name})
    ours = mlx_layers(config)
    if "lm_head" not in ours:
        assert config["tie_word_embeddings"]
        del theirs["lm_head"]
    assert ours == theirs


def test_other_architectures_are_compared_layer_by_layer(tmp_path: Path) -> None:
    """Of a mixture of experts only attention has the same names."""
    base = make_base(
        tmp_path / "base", "qwen2_moe", tied=False, num_experts=4, num_experts_per_tok=2,
        moe_intermediate_size=16, shared_expert_intermediate_size=16,
    )  # fmt: skip
    described = base_layers.base_model(str(base))
    assert "model.layers.0.self_attn.q_proj" in described.modules
    assert "model.layers.0.mlp.shared_expert.up_proj" in described.modules
    assert "model.layers.0.mlp.gate" in described.differing


def test_without_pytorch_names_come_from_a_checkpoint_of_hugging_face(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = make_base(tmp_path / "base", "olmo2", tied=False)
    monkeypatch.delitem(architectures.ARCHITECTURES, "olmo2")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert not base_layers.base_model(str(base)).differing

    # A checkpoint that mlx-lm wrote says nothing of Hugging Face's names.
    from ecellm_mlx.device.backend import mx

    path = base / "model.safetensors"
    weights = dict(mx.load(str(path)))
    mx.eval(weights)
    mx.save_safetensors(str(path), weights, metadata={"format": "mlx"})
    with pytest.raises(ConversionError, match="names the layers of 'olmo2'"):
        base_layers.base_model(str(base))
