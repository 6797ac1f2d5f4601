"""Any configuration that PEFT accepts converts, computes the same, and comes back."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ecellm_mlx.export import peft

from converters.packing import same_bits

from .peft_reference import mlx_logits, peft_adapter, peft_logits, tensors, torch_model

LAYERS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "down_proj", "lm_head")


@st.composite
def configurations(draw: st.DrawFn) -> dict[str, Any]:
    """Settings of ``LoraConfig`` that mean something for the result."""
    chosen = draw(st.lists(st.sampled_from(LAYERS), min_size=1, max_size=4, unique=True))
    ranks, alphas = st.integers(1, 9), st.integers(1, 40) | st.floats(0.5, 40)
    keys = st.sampled_from([*chosen, rf"layers\.1\..*{chosen[0]}", "model.layers.0.*"])

    def pattern(values: st.SearchStrategy[Any]) -> dict[str, Any]:
        # The first key that matches counts, and PEFT sorts them when it saves: a model that
        # it made in another order would not be the one that it saves.
        return dict(sorted(draw(st.dictionaries(keys, values, max_size=2)).items()))

    config: dict[str, Any] = {
        "r": draw(ranks),
        "lora_alpha": draw(alphas),
        "target_modules": chosen,
        "use_rslora": draw(st.booleans()),
        "use_dora": draw(st.booleans()),
        "rank_pattern": pattern(ranks),
        "alpha_pattern": pattern(alphas),
        "lora_dropout": draw(st.sampled_from([0.0, 0.1])),
    }
    in_blocks = [name for name in chosen if name != "lm_head"]
    if in_blocks and draw(st.booleans()):
        config["layers_to_transform"] = draw(st.sampled_from([[0], [1], [0, 1]]))
    elif draw(st.booleans()):
        config["target_modules"] = r".*\.(" + "|".join(in_blocks or ["q_proj"]) + ")"
    return config


def config_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "adapter_config.json").read_text())


@given(configurations())
@settings(
    max_examples=20,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_any_configuration_survives(
    bases: Callable[..., Path], workspace_home: Path, config: dict[str, Any]
) -> None:
    base = bases("mistral", tied=False)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        theirs = peft_adapter(torch_model(base), folder / "p", **config)
        peft.from_peft(folder / "p", folder / "m", base=str(base))
        tolerance = 1e-4 * max(1.0, float(np.abs(theirs).max()))
        for by_mlx_lm in (False, True):
            ours = mlx_logits(base, folder / "m", by_mlx_lm=by_mlx_lm)
            assert np.abs(ours - theirs).max() < tolerance
        peft.to_peft(folder / "m", folder / "back")
        first, second = tensors(folder / "p"), tensors(folder / "back")
        assert first.keys() == second.keys()
        assert all(same_bits(first[name], second[name]) for name in first)
        assert config_of(folder / "p") == config_of(folder / "back")

        # Composed anew, as for an adapter that was trained here.
        path = folder / "m/adapter_config.json"
        ours_config = config_of(folder / "m")
        del ours_config["ecellm"]["peft"]
        path.write_text(json.dumps(ours_config))
        peft.to_peft(folder / "m", folder / "new")
        assert np.abs(peft_logits(base, folder / "new") - theirs).max() < tolerance
        peft.from_peft(folder / "new", folder / "m2", base=str(base))
        first, second = tensors(folder / "m"), tensors(folder / "m2")
        assert first.keys() == second.keys()
        assert all(same_bits(first[name], second[name]) for name in first)
        assert config_of(folder / "m2") == ours_config
