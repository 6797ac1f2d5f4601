"""``ecellm adapters inspect`` and ``verify``, as a user runs them."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest

from ecellm_mlx.device.backend import mx
from ecellm_mlx.errors import AdapterError
from ecellm_mlx.export import peft, proof

from converters.errors import ConversionError


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory, tiny_models: dict[str, Path]) -> Path:
    """A folder with a base, the adapter ``p`` that PEFT made for it, and ``m`` from that."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    folder = tmp_path_factory.mktemp("pair")
    base = shutil.copytree(tiny_models["llama"], folder / "base")
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    settings = LoraConfig(
        r=4, lora_alpha=16, target_modules=["q_proj", "v_proj"], rank_pattern={"v_proj": 2},
        init_lora_weights=False, task_type="CAUSAL_LM",
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        get_peft_model(model, settings).save_pretrained(folder / "p")
    peft.from_peft(folder / "p", folder / "m", base=str(base))
    return folder


def test_inspect_tells_the_same_of_both_formats(pair: Path, ecellm: Any) -> None:
    facts = {}
    for name in "mp":
        done = ecellm("adapters", "inspect", pair / name, "--json")
        assert done.returncode == 0, done.stderr
        facts[name] = json.loads(done.stdout)
    assert facts["m"]["format"] == "mlx"
    assert facts["p"]["format"] == "peft"
    assert facts["m"]["base"] == facts["p"]["base"] == str(pair / "base")
    assert facts["m"]["base_fingerprint"]
    assert facts["m"]["provenance"]["converted_from"].startswith("PEFT")
    assert facts["p"]["provenance"]["peft_version"]
    for fact in ("type", "rank", "alpha", "rslora", "ranks", "alphas", "targets", "modules",
                 "parameters", "dtype", "scale"):  # fmt: skip
        assert facts["m"][fact] == facts["p"][fact], fact
    assert facts["m"]["type"] == "lora"
    assert (facts["m"]["alpha"], facts["m"]["modules"]) == (16, 4)
    assert sorted({facts["m"]["rank"], *facts["m"]["ranks"].values()}) == [2, 4]
    assert facts["m"]["targets"] == ["q_proj", "v_proj"]
    # (in + out) · r of q (32 → 32) and v (32 → 16), in two blocks.
    assert facts["m"]["parameters"] == 2 * ((32 + 32) * 4 + (32 + 16) * 2)
    assert facts["m"]["size_mb"] > 0


def test_inspect_prints_a_table(pair: Path, ecellm: Any) -> None:
    done = ecellm("adapters", "inspect", pair / "m")
    assert done.returncode == 0
    assert "q_proj, v_proj" in done.stdout


def test_verify_without_a_base_checks_the_algebra(pair: Path, ecellm: Any) -> None:
    done = ecellm("adapters", "verify", pair / "m", pair / "p", "--json")
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    assert facts["bit_identical"]
    assert facts["modules"] == 4
    assert facts["logits"] is None
    assert "logits not compared" in done.stderr


@pytest.mark.usefixtures("torch_in_children")
def test_verify_compares_logits(pair: Path, ecellm: Any) -> None:
    done = ecellm(
        "adapters", "verify", pair / "m", pair / "p", "--base", pair / "base", "--json"
    )
    assert done.returncode == 0, done.stderr
    logits = json.loads(done.stdout)["logits"]
    assert logits["max_abs_error"] < 1e-4
    assert logits["effect"] > 0.1
    assert logits["tokens"] > 50


def test_verify_on_a_quantized_base(
    pair: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlx_lm.utils import quantize_model, save_model

    from ecellm_mlx.models import loading

    base = shutil.copytree(pair / "base", tmp_path / "base")
    network, config = loading.open_lazily(base)
    network, config = quantize_model(network, config, group_size=32, bits=8)
    mx.eval(network.parameters())
    (base / "model.safetensors").unlink()
    save_model(base, network)
    (base / "config.json").write_text(json.dumps(config))
    peft.from_peft(pair / "p", tmp_path / "m", base=str(base))
    result = proof.verify(tmp_path / "m", pair / "p", base=str(base))
    assert result.logits
    assert result.logits.max_abs_error < 1e-4


def test_verify_finds_a_difference(pair: Path, tmp_path: Path, ecellm: Any) -> None:
    changed = shutil.copytree(pair / "p", tmp_path / "p")
    path = changed / "adapter_model.safetensors"
    tensors = dict(mx.load(str(path)))
    mx.eval(tensors)
    name = next(name for name in tensors if name.endswith("lora_B.weight"))
    tensors[name] = tensors[name] * 1.001
    mx.save_safetensors(str(path), tensors, metadata={"format": "pt"})
    done = ecellm("adapters", "verify", pair / "m", changed, "--json")
    assert done.returncode == 1
    assert "different updates" in done.stderr
    assert json.loads(done.stdout)["bit_identical"] is False


def test_verify_says_when_pytorch_is_missing(
    pair: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    result = proof.verify(pair / "m", pair / "p", base=str(pair / "base"))
    assert result.logits is None
    assert "PyTorch and PEFT are not installed" in result.notes[0]


def test_different_logits_are_an_error() -> None:
    logits = proof.LogitProof(tokens=8, max_abs_error=0.1, max_abs_logit=3.0, effect=1.0)
    updates = proof.Verification(2, 0.0, 1.0, 1e-6, True)
    with pytest.raises(AdapterError, match="different logits"):
        proof.Result(updates, logits, ()).require_equal()


@pytest.mark.parametrize("verb", ["inspect", "to-peft", "from-peft", "verify"])
def test_bad_input_is_one_sentence(pair: Path, tmp_path: Path, ecellm: Any, verb: str) -> None:
    missing = tmp_path / "no-such-adapter"
    arguments = {
        "inspect": [missing],
        "to-peft": [missing, tmp_path / "out"],
        "from-peft": [missing, tmp_path / "out", "--base", pair / "base"],
        "verify": [pair / "m", missing],
    }[verb]
    done = ecellm("adapters", verb, *arguments)
    assert done.returncode == 1
    assert str(missing) in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


def test_formats_are_not_mixed_up(pair: Path, tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match="is a PEFT adapter already"):
        peft.to_peft(pair / "p", tmp_path / "out")
    with pytest.raises(ConversionError, match="is an MLX adapter"):
        peft.from_peft(pair / "m", tmp_path / "out", base=str(pair / "base"))
    with pytest.raises(ConversionError, match="is a PEFT adapter"):
        proof.verify(pair / "p", pair / "p")


def test_a_base_that_peft_left_unnamed_is_named(pair: Path, tmp_path: Path) -> None:
    nameless = shutil.copytree(pair / "p", tmp_path / "p")
    path = nameless / "adapter_config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "base_model_name_or_path": None}))
    peft.from_peft(nameless, tmp_path / "m", base=str(pair / "base"))
    peft.to_peft(tmp_path / "m", tmp_path / "back")
    assert json.loads((tmp_path / "back/adapter_config.json").read_text()) == config


def test_inspect_reads_no_pytorch(pair: Path) -> None:
    code = (
        "import sys; from ecellm_mlx.device import backend;"
        "from converters.describe import describe;"
        f"describe(__import__('pathlib').Path({str(pair / 'p')!r}));"
        "assert not {'torch', 'transformers', 'mlx_lm'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
