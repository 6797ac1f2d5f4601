"""Layers with ranks and alphas of their own: as in PEFT, and loadable by mlx-lm."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from ecellm_mlx.device.backend import mx, nn, tree_map
from ecellm_mlx.errors import RecipeError
from ecellm_mlx.models import initialisations, loading, lora
from ecellm_mlx.training import adapter
from ecellm_mlx.training.recipe import Recipe, read

TOKENS = mx.array([[5, 400, 77, 1234]])
# Scales 1, 2, 4 and, for up_proj, 4/3: no power of two from the others.
PATTERNS = {
    "rank": 4,
    "alpha": 4,
    "targets": ["all-linear", "lm_head"],
    "rank_pattern": {"lm_head": 8, r"layers\.0\.self_attn\.q_proj": 2, "[kv]_proj": 1},
    "alpha_pattern": {"k_proj": 2, "lm_head": 32, r"layers\.1\.mlp\.up_proj": 16 / 3},
}


def perturbed(model: nn.Module, seed: int = 0) -> nn.Module:
    """Adapters that do something: B away from zero."""
    mx.random.seed(seed)
    model.update(
        tree_map(lambda p: p + 0.1 * mx.random.normal(p.shape), model.trainable_parameters())
    )
    mx.eval(model.parameters())
    return model.eval()


def shapes(model: nn.Module) -> dict[str, tuple[int, float]]:
    return {
        name: (module.lora_a.shape[1], module.scale)
        for name, module in model.named_modules()
        if "lora_a" in module
    }


@pytest.mark.parametrize("rslora", [False, True])
def test_ranks_and_scales_are_those_that_peft_gives(
    rslora: bool, tiny_models: dict[str, Path]
) -> None:
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    names = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    patterns: dict[str, Any] = {k: PATTERNS[k] for k in ("rank_pattern", "alpha_pattern")}
    config = LoraConfig(
        r=4, lora_alpha=4, target_modules=[*names, "lm_head"], use_rslora=rslora, **patterns
    )
    theirs = get_peft_model(
        AutoModelForCausalLM.from_pretrained(tiny_models["mistral"], dtype=torch.float32),
        config,
    )
    expected = {
        name.removeprefix("base_model.model."): (module.r["default"], module.scaling["default"])
        for name, module in theirs.named_modules()
        if hasattr(module, "lora_A") and len(module.lora_A)
    }
    model = loading.load(tiny_models["mistral"]).model
    lora.attach(model, adapter.spec_for(model, Recipe(**PATTERNS, rslora=rslora)), seed=0)
    assert shapes(model) == expected


@pytest.mark.parametrize("dora", [False, True])
def test_file_loads_bit_for_bit_in_ours_and_equally_in_mlx_lm(
    dora: bool, tiny_models: dict[str, Path], tmp_path: Path
) -> None:
    from mlx_lm.tuner.utils import load_adapters

    base = loading.load(tiny_models["mistral"])
    spec = adapter.spec_for(base.model, Recipe(**PATTERNS, dora=dora))
    lora.attach(base.model, spec, seed=0)
    perturbed(base.model)
    lora.save(tmp_path, base.model, spec, {"alpha": 4.0, "rslora": False})
    before, logits = lora.parameters(base.model), base.model(TOKENS)

    again = loading.load(tiny_models["mistral"])
    info = lora.load(again.model, tmp_path, base=again.fingerprint)
    assert shapes(again.model) == shapes(base.model)
    assert {s.alpha for s in info.spec.own.values()} == {2, 4, 32, 16 / 3}
    after = lora.parameters(again.model)
    assert before.keys() == after.keys()
    for name, array in before.items():
        assert mx.array_equal(array, after[name]), name

    theirs = loading.load(tiny_models["mistral"]).model
    load_adapters(theirs, str(tmp_path))
    theirs.eval()
    assert mx.allclose(theirs(TOKENS), logits, rtol=1e-5, atol=1e-4 * mx.abs(logits).max())


def test_one_rank_and_scale_leave_no_trace_in_the_file(
    tiny_models: dict[str, Path], tmp_path: Path
) -> None:
    base = loading.load(tiny_models["mistral"])
    spec = adapter.spec_for(base.model, Recipe(rank=4, rank_pattern={"q_proj": 4}))
    lora.attach(base.model, spec, seed=0)
    lora.save(tmp_path, base.model, spec, {"alpha": 16.0})
    assert spec.own == {}
    assert lora.read_info(tmp_path, base.model).ecellm == {"alpha": 16.0}


def test_patterns_that_name_no_layer_are_listed_with_the_names_that_exist(
    tiny_models: dict[str, Path],
) -> None:
    model = loading.load(tiny_models["mistral"]).model
    recipe = Recipe(rank_pattern={"Wqkv": 4, "lm_head": 8}, alpha_pattern={"q_proj": 8})
    with pytest.raises(RecipeError) as caught:
        adapter.spec_for(model, recipe)
    message = str(caught.value)
    assert "rank_pattern: Wqkv, rank_pattern: lm_head names no layer" in message
    assert "q_proj" in message.split("expected")[1]


def test_patterns_from_the_command_line_and_from_toml(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('rank_pattern = {lm_head = 8, "[kv]_proj" = 2}\nalpha_pattern.q_proj = 3\n')
    recipe = read(str(path), ["alpha_pattern=q_proj:4, layers.1.mlp.up_proj:0.5"])
    assert recipe.rank_pattern == {"lm_head": 8, "[kv]_proj": 2}
    assert recipe.alpha_pattern == {"q_proj": 4.0, "layers.1.mlp.up_proj": 0.5}
    with pytest.raises(RecipeError) as caught:
        read(None, ["rank_pattern=lm_head", "alpha_pattern=q_proj:x", "rank=0"])
    for part in (
        "rank_pattern='lm_head'",
        "alpha_pattern='q_proj:x'",
        "lm_head:8",
        "rank must",
    ):
        assert part in str(caught.value)
    with pytest.raises(RecipeError, match="the rank of q_proj must be at least 1"):
        read(None, ["rank_pattern=q_proj:0"])


@pytest.mark.parametrize("init", ["peft", "mlx-lm"])
def test_initial_weights_are_those_of_the_library(
    init: str, tiny_models: dict[str, Path]
) -> None:
    """Their distributions."""
    for name, array in initial(init, tiny_models["mistral"]).items():
        if "embed_tokens" in name and init == "peft":
            bound, std = (0, 0) if name.endswith("lora_a") else (None, 1.0)
        elif name.endswith("lora_b"):
            bound, std = 0, 0
        else:
            bound = 1 / math.sqrt(array.shape[0])
            std = bound / math.sqrt(3)
        if bound is not None:
            assert mx.abs(array).max().item() <= bound * (1 + 1e-6)
        assert mx.sqrt(mx.square(array).mean()).item() == pytest.approx(std, rel=0.2)


@pytest.mark.parametrize(
    "init", [name for name, entry in initialisations.REGISTRY.items() if entry.peft is not None]
)
def test_initial_weights_spread_as_in_peft(init: str, tiny_models: dict[str, Path]) -> None:
    theirs = peft_initial(tiny_models["mistral"], initialisations.REGISTRY[init].peft)
    ours = initial(init, tiny_models["mistral"])
    assert ours.keys() == theirs.keys()
    for name, array in ours.items():
        expected = mx.array(theirs[name])
        for moment in (lambda x: mx.sqrt(mx.square(x).mean()), lambda x: mx.abs(x).mean()):
            assert moment(array).item() == pytest.approx(moment(expected).item(), rel=0.2)


def initial(init: str, folder: Path) -> dict[str, mx.array]:
    """A fresh adapter, which changes nothing."""
    base = loading.load(folder)
    before = base.model(TOKENS)
    recipe = Recipe(rank=8, targets=["q_proj", "down_proj", "embed_tokens"], init=init)
    lora.attach(base.model, adapter.spec_for(base.model, recipe), seed=1, init=init)
    assert mx.array_equal(base.model(TOKENS), before)
    return lora.parameters(base.model)


def peft_initial(folder: Path, init: bool | str | None) -> dict[str, Any]:
    """A fresh PEFT adapter under our names and in our layout."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    model = get_peft_model(
        AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32),
        LoraConfig(
            r=8,
            target_modules=["q_proj", "down_proj", "embed_tokens"],
            init_lora_weights=init,
        ),
    )
    values = {}
    for name, value in model.named_parameters():
        if "lora_" in name:
            path = name.removeprefix("base_model.model.").removesuffix(".weight")
            module, _, leaf = path.removesuffix(".default").rpartition(".")
            values[f"{module}.lora_{leaf[-1].lower()}"] = value.detach().numpy().T
    return values
