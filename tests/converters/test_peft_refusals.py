"""What cannot be converted is refused in one sentence that names it, and leaves nothing."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ecellm_mlx.device.backend import mx
from ecellm_mlx.export import peft as exporting
from ecellm_mlx.models.base_layers import base_model

from converters import architectures
from converters.errors import ConversionError
from converters.mlx_adapter import read_mlx
from converters.peft import to_peft

from .peft_reference import SMALL, peft_adapter, tensors, torch_model

Bases = Callable[..., Path]
PREFIX = "base_model.model.model.layers"


@pytest.fixture(scope="module")
def base(bases: Bases) -> Path:
    return bases("llama", tied=False)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, base: Path) -> Path:
    """An adapter by PEFT that is fine as it is."""
    folder = tmp_path_factory.mktemp("made") / "p"
    peft_adapter(torch_model(base), folder, r=4, target_modules=["q_proj", "down_proj"])
    return folder


@pytest.fixture
def adapter(made: Path, tmp_path: Path) -> Path:
    """A copy of it to damage."""
    return shutil.copytree(made, tmp_path / "p")


def change_config(folder: Path, **change: Any) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))


def change_tensors(folder: Path, change: Callable[[dict[str, mx.array]], object]) -> None:
    arrays = tensors(folder)
    mx.eval(arrays)
    change(arrays)
    path = next(folder.glob("*.safetensors"))
    mx.save_safetensors(str(path), arrays, metadata={"format": "pt"})


def refused(adapter: Path, base: Path) -> str:
    """The one sentence of the refusal; nothing may be left beside the adapter."""
    before = sorted(adapter.parent.iterdir())
    with pytest.raises(ConversionError) as caught:
        exporting.from_peft(adapter, adapter.parent / "m", base=str(base))
    assert sorted(adapter.parent.iterdir()) == before
    message = str(caught.value)
    assert message.endswith(".")
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("lora_bias", True),
        ("bias", "all"),
        ("bias", "lora_only"),
        ("layer_replication", [[0, 2], [1, 2]]),
        ("target_parameters", ["mlp.experts.down_proj"]),
        ("trainable_token_indices", [1, 2]),
        ("trainable_token_indices", {"embed_tokens": [0]}),
        ("modules_to_save", ["lm_head"]),
        ("alora_invocation_tokens", [5, 6]),
        ("use_qalora", True),
        ("use_bdlora", {"nblocks": 2}),
        ("kasa_config", {"beta": 1e-4}),
        ("monteclora_config", {"samples": 2}),
        ("megatron_config", {"a": 1}),
        ("init_lora_weights", "pissa"),
        ("init_lora_weights", "olora"),
        ("init_lora_weights", "loftq"),
    ],
)
def test_settings_that_mlx_lm_has_no_word_for(
    adapter: Path, base: Path, setting: str, value: Any
) -> None:
    change_config(adapter, **{setting: value})
    assert setting in refused(adapter, base)


def test_all_such_settings_are_named_at_once(adapter: Path, base: Path) -> None:
    change_config(adapter, lora_bias=True, modules_to_save=["lm_head"], bias="all")
    message = refused(adapter, base)
    assert all(part in message for part in ("lora_bias", "modules_to_save", "bias = 'all'"))


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("IA3", {"target_modules": ["k_proj", "v_proj", "down_proj"],
                 "feedforward_modules": ["down_proj"]}),
        ("PROMPT_TUNING", {"num_virtual_tokens": 3}),
        ("PREFIX_TUNING", {"num_virtual_tokens": 3}),
        ("LOHA", {"target_modules": ["q_proj"]}),
    ],
)  # fmt: skip
def test_other_types_that_peft_really_writes(
    base: Path, tmp_path: Path, kind: str, settings: dict[str, Any]
) -> None:
    import peft

    classes = {
        "IA3": peft.IA3Config,
        "PROMPT_TUNING": peft.PromptTuningConfig,
        "PREFIX_TUNING": peft.PrefixTuningConfig,
        "LOHA": peft.LoHaConfig,
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        config = classes[kind](task_type="CAUSAL_LM", **settings)
        peft.get_peft_model(torch_model(base), config).save_pretrained(tmp_path / "p")
    assert f"of type '{kind}'" in refused(tmp_path / "p", base)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"target_modules": ["q_proj"], "lora_bias": True}, "lora_bias"),
        ({"target_modules": ["q_proj"], "bias": "lora_only"}, "bias"),
        ({"target_modules": ["embed_tokens"], "use_dora": True}, "DoRA on the embedding"),
    ],
)
def test_adapters_that_peft_really_writes_with_them(
    base: Path, tmp_path: Path, settings: dict[str, Any], named: str
) -> None:
    peft_adapter(torch_model(base), tmp_path / "p", r=2, **settings)
    assert named in refused(tmp_path / "p", base)


@pytest.mark.parametrize(
    "targets", [["lm_head"], ["embed_tokens"], ["embed_tokens", "lm_head"]]
)
@pytest.mark.parametrize("name", ["llama", "mistral"])
def test_a_tied_model_needs_one_update_at_both_ends(
    bases: Bases, tmp_path: Path, name: str, targets: list[str]
) -> None:
    tied = bases(name, tied=True)
    peft_adapter(torch_model(tied), tmp_path / "p", r=2, target_modules=targets)
    message = refused(tmp_path / "p", tied)
    assert "ensure_weight_tying" in message
    assert all(target in message for target in targets)


def test_unknown_tensors_are_all_listed(adapter: Path, base: Path) -> None:
    strange = [f"{PREFIX}.0.self_attn.q_proj.lora_C.weight", "model.layers.0.norm.weight"]
    change_tensors(adapter, lambda t: t.update({name: mx.zeros((2, 2)) for name in strange}))
    message = refused(adapter, base)
    assert all(f"{name} is unknown" in message for name in strange)


def test_missing_tensors_are_all_listed(adapter: Path, base: Path) -> None:
    def drop(arrays: dict[str, mx.array]) -> None:
        del arrays[f"{PREFIX}.0.self_attn.q_proj.lora_A.weight"]
        del arrays[f"{PREFIX}.1.mlp.down_proj.lora_B.weight"]

    change_tensors(adapter, drop)
    message = refused(adapter, base)
    assert "layers.0.self_attn.q_proj.lora_A.weight is missing" in message
    assert "layers.1.mlp.down_proj.lora_B.weight is missing" in message


def test_a_targeted_layer_without_tensors_is_missing(adapter: Path, base: Path) -> None:
    """PEFT would leave it at its random start, which does nothing."""

    def drop(arrays: dict[str, mx.array]) -> None:
        for leaf in "AB":
            del arrays[f"{PREFIX}.1.self_attn.q_proj.lora_{leaf}.weight"]

    change_tensors(adapter, drop)
    assert "layers.1.self_attn.q_proj is targeted and has no tensors" in refused(adapter, base)


def test_tensors_of_a_layer_that_is_not_targeted(adapter: Path, base: Path) -> None:
    """PEFT would ignore them without a word to most users."""
    change_config(adapter, target_modules=["q_proj"])
    message = refused(adapter, base)
    assert "model.layers.0.mlp.down_proj has tensors and is not targeted" in message


def test_all_wrong_shapes_are_listed_with_both(adapter: Path, base: Path) -> None:
    def change(arrays: dict[str, mx.array]) -> None:
        arrays[f"{PREFIX}.0.self_attn.q_proj.lora_A.weight"] = mx.zeros((4, 30))
        arrays[f"{PREFIX}.1.mlp.down_proj.lora_B.weight"] = mx.zeros((31, 4))

    change_tensors(adapter, change)
    message = refused(adapter, base)
    assert "q_proj.lora_A has shape (4, 30), and the base needs (4, 32)" in message
    assert "down_proj.lora_B has shape (31, 4), and the base needs (32, 4)" in message


def test_a_rank_that_is_not_the_configured_one(adapter: Path, base: Path) -> None:
    change_config(adapter, rank_pattern={"q_proj": 8})
    message = refused(adapter, base)
    assert "lora_A.weight has shape (4, 32), and its rank of 8 needs (8, …)" in message
    assert "lora_B.weight has shape (32, 4), and its rank of 8 needs (…, 8)" in message


def test_dora_without_magnitudes_and_magnitudes_without_dora(adapter: Path, base: Path) -> None:
    change_config(adapter, use_dora=True)
    assert "lora_magnitude_vector is missing" in refused(adapter, base)
    change_config(adapter, use_dora=False)
    name = f"{PREFIX}.0.self_attn.q_proj.lora_magnitude_vector"
    change_tensors(adapter, lambda t: t.update({name: mx.ones(32)}))
    assert "use_dora is not set" in refused(adapter, base)


def test_an_adapter_of_another_architecture(bases: Bases, adapter: Path, base: Path) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    message = refused(adapter, bases("phi", tied=False))
    assert "model.layers.0.mlp.down_proj" in message
    gpt2 = AutoConfig.for_model("gpt2", vocab_size=96, n_embd=32, n_layer=2, n_head=4)
    peft_adapter(
        AutoModelForCausalLM.from_config(gpt2), adapter.parent / "gpt2", r=2,
        target_modules=["c_attn"], fan_in_fan_out=True,
    )  # fmt: skip
    message = refused(adapter.parent / "gpt2", base)
    assert "another architecture than llama" in message
    assert "transformer.h.0.attn.c_attn" in message


def test_an_adapter_of_a_larger_model(bases: Bases, base: Path, tmp_path: Path) -> None:
    from .peft_reference import make_base

    deep = make_base(tmp_path / "deep", "llama", tied=False, num_hidden_layers=3)
    peft_adapter(torch_model(deep), tmp_path / "p", r=2, target_modules=["q_proj"])
    shutil.rmtree(deep)
    message = refused(tmp_path / "p", base)
    assert "does not have: model.layers.2.self_attn.q_proj" in message


def test_layers_that_were_trained_whole(adapter: Path, base: Path) -> None:
    """A copy of a frozen layer that is not the base's own, as after adding tokens."""
    name = "base_model.model.lm_head.base_layer.weight"
    for shape in ((SMALL["vocab_size"], 32), (SMALL["vocab_size"] + 8, 32)):
        change_tensors(adapter, lambda t, s=shape: t.update({name: mx.ones(s)}))
        assert f"lm_head.weight {shape}" in refused(adapter, base)


@pytest.mark.parametrize(
    "change",
    [
        {"r": 0}, {"r": "four"}, {"lora_alpha": -1}, {"lora_alpha": None},
        {"rank_pattern": {"(": 3}}, {"target_modules": "*"}, {"rank_pattern": {"q_proj": -1}},
    ],
)  # fmt: skip
def test_settings_without_sense(adapter: Path, base: Path, change: dict[str, Any]) -> None:
    change_config(adapter, **change)
    assert "makes no sense" in refused(adapter, base)


def test_a_folder_without_an_adapter(base: Path, tmp_path: Path) -> None:
    (tmp_path / "p").mkdir()
    assert "adapter_config.json is missing" in refused(tmp_path / "p", base)
    (tmp_path / "p/adapter_config.json").write_text(
        '{"peft_type": "LORA", "r": 4, "lora_alpha": 4}'
    )
    assert "holds none of adapter_model.safetensors" in refused(tmp_path / "p", base)
    (tmp_path / "p/adapter_config.json").write_text("[]")
    assert "must hold a JSON object" in refused(tmp_path / "p", base)


def test_an_mlx_adapter_with_missing_or_unknown_tensors(
    adapter: Path, base: Path, tmp_path: Path
) -> None:
    folder = exporting.from_peft(adapter, tmp_path / "m", base=str(base))

    def drop(arrays: dict[str, mx.array]) -> None:
        for leaf in "ab":
            del arrays[f"model.layers.0.self_attn.q_proj.lora_{leaf}"]

    change_tensors(folder, drop)
    with pytest.raises(ConversionError, match=r"0\.self_attn\.q_proj is named and has no"):
        exporting.to_peft(folder, tmp_path / "out", base=str(base))
    change_tensors(folder, lambda t: t.update({"model.norm.weight": mx.ones(32)}))
    with pytest.raises(ConversionError, match=r"model\.norm\.weight is unknown"):
        read_mlx(folder)
    assert not (tmp_path / "out").exists()


def test_full_fine_tunes_are_no_adapters(adapter: Path, base: Path, tmp_path: Path) -> None:
    folder = exporting.from_peft(adapter, tmp_path / "m", base=str(base))
    change_config(folder, fine_tune_type="full")
    with pytest.raises(ConversionError, match="'full', not an adapter"):
        exporting.to_peft(folder, tmp_path / "out")


def test_an_mlx_adapter_for_another_base(
    bases: Bases, adapter: Path, base: Path, tmp_path: Path
) -> None:
    folder = exporting.from_peft(adapter, tmp_path / "m", base=str(base))
    with pytest.raises(ConversionError, match="does not have"):
        exporting.to_peft(folder, tmp_path / "out", base=str(bases("phi", tied=False)))


def test_unknown_architectures_are_not_guessed(
    adapter: Path, base: Path, tmp_path: Path
) -> None:
    folder = exporting.from_peft(adapter, tmp_path / "m", base=str(base))
    with pytest.raises(ConversionError, match=r"names the layers of 'mamba'"):
        to_peft(folder, tmp_path / "out", base_name="x", model_type="mamba")
    assert "llama" in architectures.ARCHITECTURES


def test_what_exists_is_not_overwritten(adapter: Path, base: Path, tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "m/precious").write_text("x")
    with pytest.raises(ConversionError, match="already exists"):
        exporting.from_peft(adapter, tmp_path / "m", base=str(base))
    assert [p.name for p in (tmp_path / "m").iterdir()] == ["precious"]


@pytest.mark.parametrize(
    "section",
    [
        "text",
        {"modules": 3},
        {"modules": {"model.layers.0.self_attn.q_proj": 3}},
        {"peft": [1]},
        {"peft": {"layout": "native", "copies": {"lm_head.weight": "load"}}},
        {"peft": {"layout": "native", "copies": 3}},
    ],
)
def test_damaged_records_of_our_own(
    adapter: Path, base: Path, tmp_path: Path, section: Any
) -> None:
    folder = exporting.from_peft(adapter, tmp_path / "m", base=str(base))
    change_config(folder, ecellm=section)
    with pytest.raises(ConversionError):
        to_peft(
            folder,
            tmp_path / "out",
            base_name="x",
            model_type="llama",
            base=base_model(str(base)),
        )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("record", ["[1]", "not json", '{"mlx": 3}', '{"blocks": 3}'])
def test_damaged_metadata(adapter: Path, base: Path, record: str) -> None:
    arrays = tensors(adapter)
    mx.eval(arrays)
    path = adapter / "adapter_model.safetensors"
    mx.save_safetensors(str(path), arrays, metadata={"format": "pt", "ecellm": record})
    assert "damaged" in refused(adapter, base)
