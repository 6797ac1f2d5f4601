"""Adapters move to and from mlx-lm's own commands, which are run as a user runs them."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from ecellm_mlx import sample
from ecellm_mlx.data import rows
from ecellm_mlx.data.prompts import frame_for, prompt
from ecellm_mlx.errors import AdapterError
from ecellm_mlx.export import peft, proof
from ecellm_mlx.models import loading, lora

PROMPT, TOKENS = "Is this bag blue?", 6


def mlx_lm(verb: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "mlx_lm", verb, *arguments],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def generated(base: Path, adapter: Path | None = None) -> str:
    extra = ["--adapter-path", str(adapter)] if adapter else []
    return mlx_lm(
        "generate", "--model", str(base), "--prompt", PROMPT, "--max-tokens", str(TOKENS),
        "--temp", "0", "--ignore-chat-template", *extra,
    )  # fmt: skip


@pytest.mark.proof
@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_what_mlx_lm_trains_converts_to_peft(
    kind: str, tiny_models: dict[str, Path], tmp_path: Path
) -> None:
    """Its defaults: no keys, the last blocks only, scale 20."""
    base = tiny_models["mistral"]
    data = tmp_path / "data"
    data.mkdir()
    found = rows.load(sample.folder() / "train.jsonl", tasks=["PM"])[:4]
    pairs = [
        {"prompt": prompt(row, frame_for("mistral"))[-300:], "completion": row.output}
        for row in found
    ]
    text = "".join(json.dumps(pair) + "\n" for pair in pairs)
    for split in ("train", "valid"):
        (data / f"{split}.jsonl").write_text(text)
    mlx_lm(
        "lora", "--model", str(base), "--train", "--data", str(data), "--iters", "3",
        "--batch-size", "2", "--num-layers", "1", "--fine-tune-type", kind,
        "--learning-rate", "1e-3", "--val-batches", "1", "--max-seq-length", "128",
        "--adapter-path", str(tmp_path / "a"), "--save-every", "100",
    )  # fmt: skip
    config = json.loads((tmp_path / "a/adapter_config.json").read_text())
    assert config["fine_tune_type"] == kind

    # It loads here, with every tensor.
    network = loading.load(base).model
    info = lora.load(network, tmp_path / "a", base="any: mlx-lm does not record it")
    assert all(".layers.1." in name for name in info.spec.modules)

    with pytest.raises(AdapterError, match="--base"):
        peft.to_peft(tmp_path / "a", tmp_path / "p")
    peft.to_peft(tmp_path / "a", tmp_path / "p", base=str(base))
    result = proof.verify(tmp_path / "a", tmp_path / "p", base=str(base))
    result.require_equal()
    assert result.updates.bit_identical
    assert result.logits
    assert result.logits.max_abs_error < 1e-4
    assert result.logits.effect > 1e-3

    peft.from_peft(tmp_path / "p", tmp_path / "b", base=str(base))
    again = json.loads((tmp_path / "b/adapter_config.json").read_text())
    assert {k: v for k, v in again.items() if k != "ecellm"} == config


@pytest.mark.proof
def test_mlx_lm_generates_with_our_adapter_what_peft_does(
    tiny_models: dict[str, Path], tmp_path: Path
) -> None:
    """One with patterns, so that ranks are padded and scales folded."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    base = shutil.copytree(tiny_models["llama"], tmp_path / "base")
    # mlx-lm looks for this key alone, and transformers 5 writes it elsewhere.
    config = json.loads((base / "config.json").read_text())
    config["rope_theta"] = config["rope_parameters"]["rope_theta"]
    (base / "config.json").write_text(json.dumps(config))
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    settings = LoraConfig(
        r=4, lora_alpha=64, target_modules=["q_proj", "v_proj", "down_proj"],
        rank_pattern={"v_proj": 8}, alpha_pattern={"down_proj": 48}, init_lora_weights=False,
        task_type="CAUSAL_LM",
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        adapted = get_peft_model(model, settings).eval()
        adapted.save_pretrained(tmp_path / "p")
    peft.from_peft(tmp_path / "p", tmp_path / "m", base=str(base))

    tokenizer = AutoTokenizer.from_pretrained(base)
    start = tokenizer.encode(PROMPT)
    tokens = list(start)
    for _ in range(TOKENS):
        with torch.no_grad():
            tokens.append(int(adapted(torch.tensor([tokens])).logits[0, -1].argmax()))
    expected = tokenizer.decode(tokens[len(start) :])
    with adapted.disable_adapter(), torch.no_grad():
        plain = int(adapted(torch.tensor([start])).logits[0, -1].argmax())
    assert plain != tokens[len(start)], "the adapter must matter"
    assert expected.strip() in generated(base, tmp_path / "m")
