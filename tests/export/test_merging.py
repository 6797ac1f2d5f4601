"""A fused model is the unfused one: in MLX, in transformers, and after quantization."""

from __future__ import annotations

import json
import resource
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ecellm_mlx.device.backend import mx, nn
from ecellm_mlx.errors import AdapterError, UsageError
from ecellm_mlx.export import divergence, write
from ecellm_mlx.models import loading, lora
from ecellm_mlx.models.fingerprint import verify_safetensors, weight_files

from converters.errors import ConversionError
from converters.folders import check_space, new_folder

TOKENS = [[5, 400, 77, 1234, 9, 250, 31]]
EVERYTHING = {
    "llama": ["all-linear", "embed_tokens"],
    "mistral": ["all-linear", "lm_head", "embed_tokens"],
    "phi": ["all-linear", "lm_head"],
    "qwen3": ["all-linear", "lm_head"],
    "gemma3_text": ["all-linear", "embed_tokens"],
}


def logits(folder: Path, adapter: Path | None = None) -> np.ndarray:
    base = loading.load(folder)
    if adapter:
        lora.load(base.model, adapter, base=base.fingerprint)
    return np.array(base.model(mx.array(TOKENS)))


def torch_logits(folder: Path, peft: Path | None = None) -> np.ndarray:
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    if peft:
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, peft)
    with torch.no_grad():
        return model.eval()(torch.tensor(TOKENS)).logits.numpy()


def make_adapter(
    folder: Path,
    base: Path,
    targets: list[str],
    dora: bool = False,
    own: dict[str, lora.Shape] | None = None,
) -> Path:
    """A random adapter, large enough to change every logit."""
    loaded = loading.load(base)
    modules = lora.resolve_targets(loaded.model, targets)
    spec = lora.LoraSpec(4, 1.5, 0.05, modules, dora, own or {})
    lora.attach(loaded.model, spec, seed=3)
    noise = [
        (name, mx.random.normal(array.shape) * 0.1 + (name.endswith(".m") and array))
        for name, array in lora.parameters(loaded.model).items()
        if name.endswith((".lora_b", ".m"))
    ]
    loaded.model.load_weights(noise, strict=False)
    folder.mkdir(parents=True)
    ecellm = {
        "base": {
            "name": str(base),
            "model_type": loaded.config["model_type"],
            "fingerprint": loaded.fingerprint,
            "layers": len(loaded.model.layers),
        }
    }
    lora.save(folder, loaded.model, spec, ecellm)
    return folder


@pytest.fixture(scope="module")
def quantized_phi(tiny_models: dict[str, Path], tmp_path_factory: Any) -> Path:
    out = tmp_path_factory.mktemp("quantized") / "phi-4bit"
    return write.quantize(str(tiny_models["phi"]), out, bits=4, measure=False).path


@pytest.mark.parametrize("dora", [False, True], ids=["lora", "dora"])
@pytest.mark.parametrize("name", EVERYTHING)
def test_fused_logits_are_the_unfused_ones(
    name: str, dora: bool, tiny_models: dict[str, Path], tmp_path: Path
) -> None:
    base = tiny_models[name]
    adapter = make_adapter(tmp_path / "a", base, EVERYTHING[name], dora)
    expected = logits(base, adapter)
    written = write.fuse(adapter, tmp_path / "fused")
    assert np.abs(expected - logits(base)).max() > 0.1, "the adapter must matter"
    assert np.abs(logits(written.path) - expected).max() < 1e-4
    tied = json.loads((written.path / "config.json").read_text())["tie_word_embeddings"]
    assert tied == (name in ("llama", "gemma3_text"))

    hf = write.export_hf(write.Source(str(base), adapter), tmp_path / "hf")
    assert np.abs(torch_logits(hf.path) - expected).max() < 1e-4


def test_each_layer_is_fused_with_its_own_rank_and_scale(tiny: Path, tmp_path: Path) -> None:
    own = {
        "model.layers.0.self_attn.q_proj": lora.Shape(2, 3.0),
        "model.layers.1.mlp.up_proj": lora.Shape(4, 0.7),
    }
    adapter = make_adapter(tmp_path / "a", tiny, ["all-linear"], own=own)
    expected = logits(tiny, adapter)
    fused = write.fuse(adapter, tmp_path / "fused")
    assert np.abs(logits(fused.path) - expected).max() < 1e-4
    same = make_adapter(tmp_path / "b", tiny, ["all-linear"])
    assert np.abs(logits(tiny, same) - expected).max() > 0.01


@pytest.mark.proof
def test_no_more_than_a_few_tensors_are_in_memory(smollm2: Path, tmp_path: Path) -> None:
    adapter = make_adapter(tmp_path / "a", smollm2, ["all-linear"])
    mx.clear_cache()
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    written = write.export_hf(
        write.Source(str(smollm2), adapter), tmp_path / "hf", dtype="float32"
    )
    # The embedding alone has 113 MB in float32, with what its check takes three times that.
    assert written.size_bytes > 530e6
    assert mx.get_peak_memory() - before < 400e6
    assert mx.get_active_memory() - before < 1e6


def test_an_exported_model_has_the_logits_that_peft_computes(
    tiny_models: dict[str, Path], tmp_path: Path
) -> None:
    from ecellm_mlx.export import peft as exporting

    base = tiny_models["mistral"]
    adapter = make_adapter(tmp_path / "a", base, ["all-linear", "lm_head"])
    exporting.to_peft(adapter, tmp_path / "peft", base=str(base))
    write.export_hf(write.Source(str(base), adapter), tmp_path / "hf")
    difference = torch_logits(tmp_path / "hf") - torch_logits(base, tmp_path / "peft")
    assert np.abs(difference).max() < 1e-4


@pytest.mark.parametrize("dora", [False, True], ids=["lora", "dora"])
def test_a_quantized_base_is_dequantized_exactly(
    dora: bool, quantized_phi: Path, tmp_path: Path
) -> None:
    adapter = make_adapter(tmp_path / "a", quantized_phi, ["all-linear", "lm_head"], dora)
    expected = logits(quantized_phi, adapter)
    written = write.fuse(adapter, tmp_path / "fused")
    assert not any(name.endswith(".scales") for name in tensors(written.path))
    assert np.abs(logits(written.path) - expected).max() < 1e-4
    config = write.export_hf(write.Source(str(quantized_phi), adapter), tmp_path / "hf")
    assert "quantization" not in json.loads((config.path / "config.json").read_text())
    assert np.abs(torch_logits(config.path) - expected).max() < 1e-4


def test_a_fused_model_runs_in_mlx_lm(tiny_models: dict[str, Path], tmp_path: Path) -> None:
    from mlx_lm import generate, load

    adapter = make_adapter(tmp_path / "a", tiny_models["llama"], ["all-linear"])
    written = write.fuse(adapter, tmp_path / "fused", bits=4, measure=False)
    model, tokenizer = load(str(written.path))
    assert isinstance(model.model.layers[0].mlp.up_proj, nn.QuantizedLinear)
    assert isinstance(generate(model, tokenizer, "Answer:", max_tokens=3), str)


def test_shards_hold_every_tensor_once(tiny: Path, tmp_path: Path) -> None:
    adapter = make_adapter(tmp_path / "a", tiny, ["all-linear"])
    whole = write.fuse(adapter, tmp_path / "whole")
    source = write.Source(str(tiny), adapter)
    shards = write.export_hf(source, tmp_path / "shards", max_shard_bytes=30_000)
    files = weight_files(shards.path)
    assert len(files) > 3
    for file in files:
        verify_safetensors(file)
    one, many = tensors(whole.path), tensors(shards.path)
    assert list(one) == list(many)
    assert all(mx.array_equal(one[name], many[name]) for name in one)
    assert np.array_equal(torch_logits(shards.path), torch_logits(whole.path))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_float_types_are_kept_apart(tiny: Path, tmp_path: Path, dtype: str) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    write.export_hf(write.Source(str(tiny), None), tmp_path / "hf", dtype=dtype)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "hf", dtype="auto")
    assert model.dtype == getattr(torch, dtype)
    weight = model.model.layers[0].mlp.up_proj.weight
    original = AutoModelForCausalLM.from_pretrained(tiny).model.layers[0].mlp.up_proj.weight
    assert torch.equal(weight, original.to(weight.dtype))


def test_values_that_float16_cannot_hold_are_refused(tiny: Path, tmp_path: Path) -> None:
    adapter = make_adapter(tmp_path / "a", tiny, ["down_proj"])
    path = adapter / "adapters.safetensors"
    large = {name: array * 1e4 for name, array in mx.load(str(path)).items()}
    mx.eval(large)
    mx.save_safetensors(str(path), large)
    with pytest.raises(ConversionError, match=r"down_proj\.weight .* --dtype bfloat16"):
        write.fuse(adapter, tmp_path / "fused", dtype="float16")
    assert not [path for path in tmp_path.iterdir() if "fused" in path.name]


def test_untouched_layers_of_a_quantized_base_stay_bit_for_bit(
    quantized_phi: Path, tmp_path: Path
) -> None:
    adapter = make_adapter(tmp_path / "a", quantized_phi, ["q_proj"])
    written = write.fuse(adapter, tmp_path / "fused", bits=4, measure=False)
    before, after = tensors(quantized_phi), tensors(written.path)
    assert before.keys() == after.keys()
    changed = {
        name.rsplit(".", 2)[-2]
        for name in before
        if not mx.array_equal(before[name], after[name])
    }
    assert changed == {"q_proj"}


@pytest.mark.proof
def test_keep_adapted_stores_the_fine_tune_finer(quantized_phi: Path, tmp_path: Path) -> None:
    adapter = make_adapter(tmp_path / "a", quantized_phi, ["q_proj", "fc2"])
    coarse = write.fuse(adapter, tmp_path / "coarse", bits=4)
    finer = write.fuse(adapter, tmp_path / "finer", bits=4, keep_adapted=True)
    entries = json.loads((finer.path / "config.json").read_text())["quantization"]
    assert entries["model.layers.1.mlp.fc2"] == {
        "group_size": 64, "bits": 8, "mode": "affine"
    }  # fmt: skip
    assert entries["bits"] == 4
    assert coarse.divergence is not None
    assert finer.divergence is not None
    assert finer.divergence.kl < coarse.divergence.kl / 20
    assert finer.divergence.kl_of_fine_tune == coarse.divergence.kl_of_fine_tune
    assert coarse.divergence.risky
    assert f"{coarse.divergence.kl:.4f} nats" in (coarse.path / "README.md").read_text()


def test_divergence_is_the_mean_over_answer_positions() -> None:
    def logs(*rows: tuple[float, ...]) -> np.ndarray:
        return np.log(np.array(rows, np.float32))

    right = [logs((0.5, 0.5), (0.9, 0.1)), logs((0.25, 0.75))]
    other = [logs((0.9, 0.1), (0.9, 0.1)), logs((0.25, 0.75))]
    measured = divergence.compare(right, other, right)
    expected = 0.5 * np.log(0.5 / 0.9) + 0.5 * np.log(0.5 / 0.1)
    assert measured.kl == pytest.approx(expected / 3, rel=1e-6)
    assert measured.kl_of_fine_tune == 0
    assert (measured.prompts, measured.positions, measured.same_top_token) == (2, 3, 1)
    assert measured.risky


def test_contradictions_and_wrong_bases_are_refused(
    tiny_models: dict[str, Path], tmp_path: Path
) -> None:
    adapter = make_adapter(tmp_path / "a", tiny_models["llama"], ["q_proj"])
    with pytest.raises(UsageError, match="--keep-adapted"):
        write.fuse(adapter, tmp_path / "out", keep_adapted=True)
    with pytest.raises(UsageError, match="3 bits"):
        write.fuse(adapter, tmp_path / "out", bits=3)
    with pytest.raises(AdapterError, match="another base"):
        write.fuse(adapter, tmp_path / "out", base=str(tiny_models["mistral"]))
    assert not (tmp_path / "out").exists()


def test_a_full_disk_leaves_nothing(
    ecellm_process: Any, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter = make_adapter(tmp_path / "a", tiny, ["q_proj"])

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))

    out = tmp_path / "exports" / "hf"
    result = ecellm_process("export", "hf", adapter, out, preexec_fn=limit)
    assert result.returncode == 1
    assert "files of this size are not allowed here" in result.stderr
    assert result.stderr.count("\n") == 1
    assert list(out.parent.iterdir()) == []
    with pytest.raises(ConversionError, match="are free on its disk"):
        check_space(out / "deep" / "er", 10**18)


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    script = (
        "import os, signal, sys; from pathlib import Path\n"
        "from converters.folders import new_folder\n"
        "with new_folder(Path(sys.argv[1])) as folder:\n"
        "    (folder / 'half').write_text('x'); os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    out = tmp_path / "out" / "model"
    # The next write beside them clears all of them, whatever their names were to be.
    for target in (out, out.with_name("another")):
        killed = subprocess.run([sys.executable, "-c", script, str(target)], check=False)
        assert killed.returncode == -signal.SIGKILL
        assert not target.exists()
        assert len(list(out.parent.iterdir())) == 1
    with new_folder(out) as folder:
        (folder / "whole").write_text("x")
        # A process that is alive keeps its folder.
        with new_folder(out):
            assert folder.exists()
    assert [path.name for path in out.parent.iterdir()] == ["model"]
    assert [path.name for path in out.iterdir()] == ["whole"]


def tensors(folder: Path) -> dict[str, mx.array]:
    found: dict[str, mx.array] = {}
    for file in weight_files(folder):
        found.update(mx.load(str(file)))
    return dict(sorted(found.items()))
