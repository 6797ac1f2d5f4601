"""Each entry of the table is what mlx-lm and transformers say of the family."""

from __future__ import annotations

import importlib
import json
import warnings
from pathlib import Path
from typing import Any

import pytest
from mlx_lm.utils import MODEL_REMAPPING

from ecellm_mlx.device.backend import mx, nn, tree_flatten
from ecellm_mlx.errors import ModelError
from ecellm_mlx.inference.requests import context_length
from ecellm_mlx.models import body, loading, lora, shape
from ecellm_mlx.models.config import for_mlx_lm
from ecellm_mlx.training.loss import check_trainable
from ecellm_mlx.training.plan import plan_training, refuse_what_cannot_fit
from ecellm_mlx.training.recipe import Recipe

from converters.architectures import ARCHITECTURES

SMALL = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 128,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
# Of these mlx-lm's classes take no other number of key-value heads, or width of a head.
OWN: dict[str, dict[str, Any]] = {
    "phi": {"num_key_value_heads": 4},
    "helium": {"num_key_value_heads": 4, "head_dim": 16},
    "cohere2": {"head_dim": 16},
}
WIDE = [name for name, entry in ARCHITECTURES.items() if entry.head_dim]


def theirs(name: str, **changes: Any) -> Any:
    """transformers' configuration of a small model."""
    from transformers import AutoConfig

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return AutoConfig.for_model(name, **{**SMALL, **OWN.get(name, {}), **changes})


def written(settings: Any, folder: Path) -> dict[str, Any]:
    """What transformers saves of it, read as a checkpoint's."""
    settings.save_pretrained(folder)
    content: dict[str, Any] = json.loads((folder / "config.json").read_text())
    return content


def build(config: dict[str, Any]) -> nn.Module:
    """mlx-lm's model, as a checkpoint of that configuration makes it."""
    kind = config["model_type"]
    family = ARCHITECTURES[kind]
    if family.classes:
        module = importlib.import_module(f"ecellm_mlx.models.{family.classes}")
    else:
        module = importlib.import_module(f"mlx_lm.models.{MODEL_REMAPPING.get(kind, kind)}")
    settings = {k: v for k, v in for_mlx_lm(config).items() if v is not None}
    model = module.Model(module.ModelArgs.from_dict(settings))
    if config.get("tie_word_embeddings", family.tied) and "lm_head" in model and kind != "phi":
        model.sanitize({})
    return model


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_shapes_and_targets_are_those_of_the_model(name: str, tmp_path: Path) -> None:
    # A head of its own width, where the family has one.
    changes = {"head_dim": 24} if name in WIDE else {}
    config = written(theirs(name, **changes), tmp_path)
    model, found = build(config), shape.of(str(tmp_path))
    layers = lora.adaptable(model)
    expected = {
        f"model.layers.{index}.{path}": (wide, narrow)
        for index in range(found.layers)
        for path, (narrow, wide) in found.linears.items()
    }
    paths = lora.resolve_targets(model, ["all-linear"])
    assert {path: layers[path].weight.shape for path in paths} == expected
    assert sum(layers[path].weight.size for path in paths) == found.block_parameters
    assert found.adapted(["all-linear"]) == found.linears
    assert ("lm_head" not in layers) == found.tied_head
    for target in {path.rpartition(".")[2] for path in found.linears}:
        assert len(lora.resolve_targets(model, [target])) == 6 * len(found.adapted([target]))


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_defaults_are_those_of_transformers(name: str) -> None:
    from transformers import AutoConfig
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        plain = AutoConfig.for_model(name)
    family = ARCHITECTURES[name]
    assert family.tied == plain.tie_word_embeddings
    if family.head_dim is not None:
        assert family.head_dim == plain.head_dim
    if family.hf_class:
        assert family.hf_class == MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[name]
        share = (plain.rope_parameters or {}).get("partial_rotary_factor", 1.0)
        assert family.rotary == share


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_logits_are_the_heads_where_the_table_says_so(name: str, tmp_path: Path) -> None:
    model = build(written(theirs(name), tmp_path))
    assert bool(body.split_problem(model)) == (not ARCHITECTURES[name].trained)
    if not ARCHITECTURES[name].trained:
        with pytest.raises(ModelError, match="Gemma 3 model"):
            check_trainable(model)


@pytest.mark.parametrize("name", [n for n, entry in ARCHITECTURES.items() if entry.hf_class])
def test_every_tensor_of_an_exported_family_has_the_name_that_it_has_there(
    name: str, tmp_path: Path
) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    settings = theirs(name)
    with torch.device("meta"):
        reference = AutoModelForCausalLM.from_config(settings)
    expected = {n: tuple(p.shape) for n, p in reference.named_parameters()}
    model = build(written(settings, tmp_path))
    assert {n: w.shape for n, w in tree_flatten(model.parameters())} == expected


def test_what_cannot_be_trained_is_refused_before_anything_is_loaded(tmp_path: Path) -> None:
    written(theirs("gemma2"), tmp_path)
    with pytest.raises(ModelError, match="Gemma 2 cannot be trained yet"):
        plan_training(str(tmp_path), Recipe(), None, tokens_per_second=1.0)
    with pytest.raises(ModelError, match="Gemma 2 cannot be trained yet"):
        refuse_what_cannot_fit(str(tmp_path), Recipe(), [])


def test_published_shapes_are_counted_right(tmp_path: Path) -> None:
    """Qwen3-0.6B, whose heads are wider than hidden / heads, and Gemma 3 270M."""
    qwen = {
        "model_type": "qwen3", "hidden_size": 1024, "intermediate_size": 3072, "head_dim": 128,
        "num_hidden_layers": 28, "num_attention_heads": 16, "num_key_value_heads": 8,
        "vocab_size": 151936, "tie_word_embeddings": True,
    }  # fmt: skip
    gemma = {
        "model_type": "gemma3_text", "hidden_size": 640, "intermediate_size": 2048,
        "num_hidden_layers": 18, "num_attention_heads": 4, "num_key_value_heads": 1,
        "head_dim": 256, "vocab_size": 262144,
    }  # fmt: skip
    for config, blocks, ends in ((qwen, 440e6, 156e6), (gemma, 100e6, 168e6)):
        (tmp_path / "config.json").write_text(json.dumps(config))
        found = shape.of(str(tmp_path))
        assert found.block_parameters == pytest.approx(blocks, rel=0.01)
        assert found.embedding_parameters == pytest.approx(ends, rel=0.01)


def test_an_architecture_without_an_entry_is_named(tmp_path: Path) -> None:
    config = {"model_type": "mamba", "hidden_size": 8, "num_attention_heads": 2}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match="layers of the architecture 'mamba'"):
        shape.of(str(tmp_path))


def test_windows_that_mlx_lm_leaves_out_limit_the_context() -> None:
    qwen = {"model_type": "qwen3", "max_position_embeddings": 512, "sliding_window": 64}
    assert context_length(qwen) == 64
    assert context_length({**qwen, "use_sliding_window": False}) == 512
    assert context_length({**qwen, "model_type": "gemma3_text"}) == 512


@pytest.mark.parametrize(
    ("kinds", "period"),
    [
        (["sliding_attention", "full_attention"] * 3, 2),
        (["full_attention"] * 6, 1),
        ((["sliding_attention"] * 5 + ["full_attention"]), 6),
        (["full_attention", "sliding_attention"] * 3, None),
        (["sliding_attention"] * 6, None),
    ],
)
def test_gemma_sees_everything_where_its_configuration_says(
    kinds: list[str], period: int | None, tmp_path: Path
) -> None:
    config = written(theirs("gemma3_text", layer_types=kinds, sliding_window=8), tmp_path)
    if period is None:
        with pytest.raises(ValueError, match="every n-th layer"):
            for_mlx_lm(config)
        return
    settings = for_mlx_lm(config)
    assert settings["sliding_window_pattern"] == period
    assert (settings["rope_theta"], settings["rope_local_base_freq"]) == (1e6, 1e4)
    full = [not layer.self_attn.is_sliding for layer in build(config).layers]
    assert full == [kind == "full_attention" for kind in kinds]


@pytest.mark.parametrize(
    "change", [{"final_logit_softcapping": 30.0}, {"use_bidirectional_attention": True}]
)
def test_what_mlx_lms_gemma_would_leave_out_is_refused(
    change: dict[str, Any], tiny_models: dict[str, Path], tmp_path: Path
) -> None:
    base = tiny_models["gemma3_text"]
    config = json.loads((base / "config.json").read_text())
    (tmp_path / "model.safetensors").symlink_to(base / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({**config, **change}))
    with pytest.raises(ModelError, match=next(iter(change))):
        loading.open_lazily(tmp_path)


@pytest.mark.parametrize("name", ["qwen3", "gemma3_text"])
def test_logits_are_those_of_transformers(name: str, tiny_models: dict[str, Path]) -> None:
    """Beyond the sliding window, and with an embedding scale that bfloat16 cannot hold."""
    import torch
    from transformers import AutoModelForCausalLM

    tokens = [[(7 * i) % 4000 + 3 for i in range(90)]]
    reference = AutoModelForCausalLM.from_pretrained(tiny_models[name], dtype=torch.float32)
    with torch.no_grad():
        expected = mx.array(reference.eval()(torch.tensor(tokens)).logits.numpy())
    logits = loading.load(tiny_models[name]).model(mx.array(tokens))
    assert mx.abs(logits - expected).max().item() < 1e-4 * mx.abs(expected).max().item()
