"""GGUF files that we write are what others read: tensors, logits, tokenizers, adapters.

Read back with the ``gguf`` library, transformers' own GGUF loader and our importer.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ecellm_mlx import sample
from ecellm_mlx.data import rows
from ecellm_mlx.device.backend import mx
from ecellm_mlx.errors import UsageError
from ecellm_mlx.export import gguf, write
from ecellm_mlx.models import loading, lora
from ecellm_mlx.models.tokenizer import load_tokenizer
from tests.cases import proof
from tests.converters.peft_reference import make_base

from converters.errors import ConversionError
from converters.gguf import import_gguf
from converters.gguf_header import read_header
from converters.gguf_names import Names
from converters.gguf_tokenizer import tokenizer_json
from converters.gguf_vocab import read_vocabulary

TOKENS = [[5, 400, 77, 1234, 9, 250, 31]]
DECOMPOSED = " caf\u0065\u0301"
TEXT = "They've bought  2 Sony WH-1000XM4 (£1,299.00) —\n\n\tcafé 日本 🍮: it's 50% off!"


def make_adapter(folder: Path, base: Path, targets: list[str], **spec: Any) -> Path:
    """A random adapter that changes every logit."""
    loaded = loading.load(base)
    modules = lora.resolve_targets(loaded.model, targets)
    adapter = lora.LoraSpec(4, 1.5, 0.0, modules, **spec)
    lora.attach(loaded.model, adapter, seed=3)
    noise = [
        (name, mx.random.normal(array.shape) * 0.1)
        for name, array in lora.parameters(loaded.model).items()
        if name.endswith("lora_b")
    ]
    loaded.model.load_weights(noise, strict=False)
    folder.mkdir(parents=True)
    ecellm = {"base": {"name": str(base), "fingerprint": loaded.fingerprint}}
    lora.save(folder, loaded.model, adapter, ecellm)
    return folder


def logits(folder: Path, adapter: Path | None = None) -> np.ndarray:
    base = loading.load(folder)
    if adapter:
        lora.load(base.model, adapter, base=base.fingerprint)
    return np.array(base.model(mx.array(TOKENS)))


def transformers_logits(file: Path) -> np.ndarray:
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(
        file.parent, gguf_file=file.name, dtype=torch.float32
    )
    with torch.no_grad():
        return model.eval()(torch.tensor(TOKENS)).logits.numpy()


def contents(file: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Metadata and de-quantized tensors, as the gguf library reads them."""
    from gguf import GGUFReader
    from gguf.quants import dequantize

    reader = GGUFReader(file)
    fields = {
        name: field.contents() for name, field in reader.fields.items() if len(field.data) == 1
    }
    return fields, {t.name: dequantize(t.data, t.tensor_type) for t in reader.tensors}


def arrays(file: Path) -> dict[str, np.ndarray]:
    """Float tensors as MLX reads them, which is faster where the vocabulary is large."""
    found = mx.load(str(file))
    assert isinstance(found, dict)
    return {name: np.array(value) for name, value in found.items()}


def weights(folder: Path) -> dict[str, np.ndarray]:
    return {k: np.array(v) for k, v in mx.load(str(folder / "model.safetensors")).items()}


@pytest.fixture(scope="module")
def mistral(tiny_models: dict[str, Path], tmp_path_factory: Any) -> Path:
    """The tiny Mistral with a SentencePiece tokenizer, as Mistral and Llama 2 have."""
    import sentencepiece
    from transformers import LlamaTokenizer

    folder = tmp_path_factory.mktemp("spm") / "mistral"
    shutil.copytree(tiny_models["mistral"], folder)
    found = rows.load(sample.folder() / "train.jsonl")[:600]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([row.input for row in found]),
        model_prefix=str(folder / "tokenizer"),
        vocab_size=1500, model_type="bpe", byte_fallback=True, split_digits=True,
        allow_whitespace_only_pieces=True, normalization_rule_name="identity",
        remove_extra_whitespaces=False, minloglevel=2,
    )  # fmt: skip
    for name in ("tokenizer.vocab", "tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()
    tokenizer = LlamaTokenizer.from_pretrained(folder, add_bos_token=True)
    model = (folder / "tokenizer.model").read_bytes()
    tokenizer.save_pretrained(folder)
    (folder / "tokenizer.model").write_bytes(model)
    return folder


@pytest.mark.parametrize(
    ("kind", "tolerance"), [proof("f32", 1e-4), proof("f16", 0.05), proof("q8_0", 1.0)]
)
def test_llama_logits_are_the_unfused_ones(
    kind: str, tolerance: float, tiny: Path, tmp_path: Path
) -> None:
    adapter = make_adapter(tmp_path / "a", tiny, ["all-linear", "embed_tokens"])
    expected = logits(tiny, adapter)
    source = write.Source(str(tiny), adapter)
    file, _ = gguf.export(source, tmp_path / "out", kind=kind)
    assert np.abs(expected - logits(tiny)).max() > 1
    assert np.abs(transformers_logits(file) - expected).max() < tolerance
    assert kind in read_header(file).path.name.lower()


def test_mistral_logits_and_tokens_are_the_unfused_ones(mistral: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    adapter = make_adapter(tmp_path / "a", mistral, ["all-linear", "lm_head"])
    source = write.Source(str(mistral), adapter)
    file, _ = gguf.export(source, tmp_path / "out", kind="f32")
    assert np.abs(transformers_logits(file) - logits(mistral, adapter)).max() < 1e-4
    ours = AutoTokenizer.from_pretrained(mistral)
    theirs = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    assert theirs.encode(TEXT) == ours.encode(TEXT)
    assert ours.encode(TEXT)[0] == ours.bos_token_id
    fields = read_header(file).metadata
    assert fields["tokenizer.ggml.model"] == "llama"
    assert fields["tokenizer.ggml.add_bos_token"] is True
    assert fields["tokenizer.ggml.add_space_prefix"] is True
    types = fields["tokenizer.ggml.token_type"]
    assert types[:4] == [2, 3, 3, 6]
    assert fields["tokenizer.ggml.scores"][-1] < fields["tokenizer.ggml.scores"][1000] < 0


def test_scores_without_a_sentencepiece_file_order_tokens_alike(
    mistral: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "mistral"
    shutil.copytree(mistral, folder)
    with_scores = read_vocabulary(folder, 2000)
    (folder / "tokenizer.model").unlink()
    rebuilt = read_vocabulary(folder, 2000)
    assert rebuilt.tokens == with_scores.tokens
    assert rebuilt.types == with_scores.types
    merged = [i for i, t in enumerate(rebuilt.tokens) if rebuilt.types[i] == 1 and len(t) > 1]

    def order(scores: list[float]) -> list[int]:
        return sorted(merged, key=lambda i: -scores[i])

    assert len(merged) > 1000
    assert order(rebuilt.scores) == order(with_scores.scores)


def test_q8_0_is_within_half_a_step_and_imports_exactly(tiny: Path, tmp_path: Path) -> None:
    file, _ = gguf.export(write.Source(str(tiny), None), tmp_path / "out", kind="q8_0")
    _, tensors = contents(file)
    original = weights(tiny)["model.layers.1.mlp.down_proj.weight"]
    found = tensors["blk.1.ffn_down.weight"]
    blocks = np.abs(original).reshape(-1, 32).max(1, keepdims=True)
    error = np.abs(found - original).reshape(-1, 32)
    # Half a step, and float16's rounding of the scale over 127 steps.
    assert (error <= blocks / 127 * 0.5 + blocks * 2.0**-11).all()
    imported = loading.load(import_gguf(file, tmp_path / "back"))
    assert np.abs(np.array(imported.model(mx.array(TOKENS))) - logits(tiny)).max() < 1
    assert imported.tokenizer.encode(TEXT) == load_tokenizer(tiny).encode(TEXT)


@pytest.fixture
def as_published(tiny: Path, tmp_path: Path) -> Any:
    """A small base of a family, with what GGUF takes for granted of the published ones."""
    shapes: dict[str, dict[str, Any]] = {
        "qwen3": {"head_dim": 128},
        "gemma3_text": {
            "head_dim": 256,
            "query_pre_attn_scalar": 256,
            "num_hidden_layers": 6,
            "layer_types": ["sliding_attention"] * 5 + ["full_attention"],
        },
    }

    def make(name: str, **changes: Any) -> Path:
        rows_ = json.loads((tiny / "config.json").read_text())["vocab_size"]
        settings = {"vocab_size": rows_, "num_key_value_heads": 1, **shapes[name], **changes}
        base = make_base(tmp_path / name, name, tied=name == "gemma3_text", **settings)
        for file in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copyfile(tiny / file, base / file)
        return base

    return make


@pytest.mark.parametrize("name", [proof("qwen3"), proof("gemma3_text")])
def test_logits_of_other_families_are_the_unfused_ones(
    name: str, as_published: Any, tmp_path: Path
) -> None:
    base = as_published(name)
    adapter = make_adapter(tmp_path / "a", base, ["all-linear"])
    file, _ = gguf.export(write.Source(str(base), adapter), tmp_path / "out", kind="f32")
    expected = logits(base, adapter)
    assert np.abs(expected - logits(base)).max() > 0.1, "the adapter must matter"
    assert np.abs(transformers_logits(file) - expected).max() < 1e-4
    fields = read_header(file).metadata
    kind = fields["general.architecture"]
    config = json.loads((base / "config.json").read_text())
    assert fields[f"{kind}.attention.key_length"] == config["head_dim"]
    assert fields.get(f"{kind}.attention.sliding_window") == config["sliding_window"]

    alone, _ = gguf.export(
        write.Source(str(base), adapter), tmp_path / "o", kind="f32", adapter_only=True
    )
    plain, _ = gguf.export(write.Source(str(base), None), tmp_path / "b", kind="f32")
    facts, parts = contents(alone)
    before, after = arrays(plain), arrays(file)
    changed = {key for key in before if not np.array_equal(before[key], after[key])}
    assert {key.rsplit(".", 1)[0] for key in parts} == changed
    for key in changed:
        a, b = parts[f"{key}.lora_a"], parts[f"{key}.lora_b"]
        update = facts["adapter.lora.alpha"] / a.shape[0] * (b @ a)
        assert np.abs(before[key] + update - after[key]).max() < 1e-5, key


@pytest.mark.proof
def test_qwens_tokenizer_is_read_back_as_it_was(as_published: Any, tmp_path: Path) -> None:
    from tokenizers import Tokenizer
    from transformers import AutoTokenizer, Qwen2Tokenizer

    base = as_published("qwen3")
    model = json.loads((base / "tokenizer.json").read_text())["model"]
    merges = [tuple(m.split(" ")) if isinstance(m, str) else tuple(m) for m in model["merges"]]
    ours = Qwen2Tokenizer(vocab=model["vocab"], merges=merges)
    ours.save_pretrained(base)
    assert json.loads((base / "tokenizer.json").read_text())["normalizer"] == {"type": "NFC"}
    file, _ = gguf.export(write.Source(str(base), None), tmp_path / "out", kind="f32")
    assert read_header(file).metadata["tokenizer.ggml.pre"] == "qwen2"
    theirs = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    assert theirs.encode(TEXT) == ours.encode(TEXT)
    # Our own importer builds the same one from the file.
    header = read_header(file)
    rebuilt = tokenizer_json(header, header.need("tokenizer.ggml.tokens"))
    again = Tokenizer.from_str(json.dumps(rebuilt))
    assert again.encode(TEXT + DECOMPOSED).ids == ours.encode(TEXT + DECOMPOSED)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"query_pre_attn_scalar": 64}, "query_pre_attn_scalar = 64"),
        ({"layer_types": ["sliding_attention", "full_attention"] * 3}, "pattern = 2"),
        ({"rope_parameters": {"sliding_attention": {"rope_type": "default",
          "rope_theta": 5e3}}}, "rope_local_base_freq = 5000"),
    ],
)  # fmt: skip
def test_a_gemma_that_llama_cpp_would_compute_otherwise_is_refused(
    change: dict[str, Any], message: str, as_published: Any, tmp_path: Path
) -> None:
    base = as_published("gemma3_text", **change)
    with pytest.raises(ConversionError, match=message):
        gguf.export(write.Source(str(base), None), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("split", [False, True])
def test_phi_tensors_are_the_fused_ones(
    split: bool, tiny_models: dict[str, Path], tmp_path: Path
) -> None:
    base = tiny_models["phi"]
    adapter = make_adapter(tmp_path / "a", base, ["q_proj", "v_proj", "fc1", "lm_head"])
    fused = weights(write.fuse(adapter, tmp_path / "fused").path)
    source = write.Source(str(base), adapter)
    file, _ = gguf.export(source, tmp_path / "out", kind="f32", split_qkv=split)
    fields = read_header(file).metadata
    tensors = arrays(file) if split else contents(file)[1]
    assert fields["general.architecture"] == "phi2"
    assert fields["phi2.rope.dimension_count"] == 4
    names = {
        "token_embd": "model.embed_tokens", "output": "lm_head",
        "output_norm": "model.final_layernorm",
    }  # fmt: skip
    for layer in (0, 1):
        block, path = f"blk.{layer}", f"model.layers.{layer}"
        names |= {
            f"{block}.attn_norm": f"{path}.input_layernorm",
            f"{block}.attn_output": f"{path}.self_attn.dense",
            f"{block}.ffn_up": f"{path}.mlp.fc1",
            f"{block}.ffn_down": f"{path}.mlp.fc2",
        }
        for leaf in ("weight", "bias"):
            parts = [fused.pop(f"{path}.self_attn.{k}_proj.{leaf}") for k in "qkv"]
            stored = (
                [tensors.pop(f"{block}.attn_{k}.{leaf}") for k in "qkv"]
                if split
                else [tensors.pop(f"{block}.attn_qkv.{leaf}")]
            )
            assert np.array_equal(np.concatenate(stored), np.concatenate(parts))
    renamed = {
        f"{names[name.rpartition('.')[0]]}.{name.rpartition('.')[2]}": array
        for name, array in tensors.items()
    }
    assert renamed.keys() == fused.keys()
    assert all(np.array_equal(renamed[name], fused[name]) for name in fused)


@pytest.mark.proof
def test_metadata_is_that_of_the_original_smollm2(
    smollm2: Path, gguf_file: Path, tmp_path: Path
) -> None:
    source = write.Source(str(smollm2), None)
    file, _ = gguf.export(source, tmp_path / "out", kind="q8_0")
    ours, theirs = read_header(file), read_header(gguf_file)
    described = {"general.organization", "general.finetune", "general.basename"}
    assert theirs.metadata.keys() - ours.metadata.keys() == described
    differing = {
        key
        for key in theirs.metadata.keys() & ours.metadata.keys()
        if ours.metadata[key] != theirs.metadata[key]
    }
    assert differing == {"general.name", "general.file_type"}
    assert ours.tensors.keys() == theirs.tensors.keys()
    assert all(t.shape == theirs.tensors[n].shape for n, t in ours.tensors.items())
    back = import_gguf(file, tmp_path / "back")
    for name in ("tokenizer.json", "config.json"):
        mine, original = (json.loads((p / name).read_text()) for p in (back, smollm2))
        mine.pop("quantization", None)
        original.pop("quantization", None)
        assert mine == original


@pytest.mark.parametrize("name", ["llama", "mistral", "phi"])
def test_an_adapter_alone_adds_what_fusing_adds(
    name: str, tiny_models: dict[str, Path], tmp_path: Path
) -> None:
    """W + alpha / rank · B A on the base's GGUF is the fused model's GGUF."""
    base = tiny_models[name]
    targets = (
        ["q_proj", "k_proj", "down_proj"] if name != "phi" else ["q_proj", "v_proj", "fc1"]
    )
    adapter = make_adapter(
        tmp_path / "a",
        base,
        [*targets, *(["lm_head"] if name != "llama" else [])],
        # A rank and a scale of its own, which is moved into B.
        own={"model.layers.1.self_attn.q_proj": lora.Shape(2, 2.5)},
    )
    source = write.Source(str(base), adapter)
    plain, _ = gguf.export(write.Source(str(base), None), tmp_path / "b", kind="f32")
    fused, _ = gguf.export(source, tmp_path / "f", kind="f32")
    file, _ = gguf.export(source, tmp_path / "o", kind="f32", adapter_only=True)
    fields, parts = contents(file)
    assert fields["general.type"] == "adapter"
    assert fields["adapter.type"] == "lora"
    alpha = fields["adapter.lora.alpha"]
    before, after = arrays(plain), arrays(fused)
    changed = {key for key in before if not np.array_equal(before[key], after[key])}
    assert {key.rsplit(".", 1)[0] for key in parts} == changed
    for key in changed:
        a, b = parts[f"{key}.lora_a"], parts[f"{key}.lora_b"]
        updated = before[key] + alpha / a.shape[0] * (b @ a)
        assert np.abs(updated - after[key]).max() < 1e-5, key


def test_an_embedding_of_its_own_is_kept_row_by_row(
    tiny_models: dict[str, Path], tmp_path: Path
) -> None:
    base = tiny_models["mistral"]
    adapter = make_adapter(tmp_path / "a", base, ["embed_tokens"])
    source = write.Source(str(base), adapter)
    file, _ = gguf.export(source, tmp_path / "o", kind="f32", adapter_only=True)
    fields, parts = contents(file)
    a, b = parts["token_embd.weight.lora_a"], parts["token_embd.weight.lora_b"]
    assert a.shape[1] == b.shape[1] == 4
    fused = weights(write.fuse(adapter, tmp_path / "fused").path)
    updated = weights(base)["model.embed_tokens.weight"]
    updated = updated + fields["adapter.lora.alpha"] / 4 * (a @ b.T)
    assert np.abs(updated - fused["model.embed_tokens.weight"]).max() < 1e-5


def test_what_gguf_cannot_say_is_refused(tiny_models: dict[str, Path], tmp_path: Path) -> None:
    llama = tiny_models["llama"]
    out = tmp_path / "out"
    dora = make_adapter(tmp_path / "dora", llama, ["q_proj"], dora=True)
    with pytest.raises(ConversionError, match="DoRA"):
        gguf.export(write.Source(str(llama), dora), out, kind="f32", adapter_only=True)
    tied = make_adapter(tmp_path / "tied", llama, ["embed_tokens"])
    with pytest.raises(ConversionError, match="also the output layer"):
        gguf.export(write.Source(str(llama), tied), out, kind="f32", adapter_only=True)
    with pytest.raises(UsageError, match="not quantized"):
        gguf.export(write.Source(str(llama), tied), out, kind="q8_0", adapter_only=True)
    with pytest.raises(UsageError, match="names a file"):
        gguf.export(write.Source(str(llama), None), tmp_path / "x.gguf")
    with pytest.raises(UsageError, match="q4_k"):
        gguf.export(write.Source(str(llama), None), out, kind="q4_k")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pre_tokenizer": {"type": "Whitespace"}}, "splits text in a way"),
        ({"normalizer": {"type": "Lowercase"}}, "normalizes text"),
        ({"model": {"type": "Unigram", "vocab": []}}, "no tokenizer that GGUF knows"),
        ({"pre_tokenizer": 3}, "damaged"),
    ],
)
def test_unknown_tokenizers_are_refused(
    change: dict[str, Any], message: str, tiny: Path, tmp_path: Path
) -> None:
    base = tmp_path / "base"
    shutil.copytree(tiny, base)
    path = base / "tokenizer.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(ConversionError, match=message):
        gguf.export(write.Source(str(base), None), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_unsupported_models_are_refused(tiny: Path, tmp_path: Path) -> None:
    base = tmp_path / "base"
    shutil.copytree(tiny, base)
    path = base / "config.json"
    config = json.loads(path.read_text())
    scaled = {"rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
              "high_freq_factor": 4.0, "original_max_position_embeddings": 512}}  # fmt: skip
    path.write_text(json.dumps({**config, **scaled}))
    with pytest.raises(ConversionError, match="llama3"):
        gguf.export(write.Source(str(base), None), tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with pytest.raises(ConversionError, match="qwen2"):
        Names({**config, "model_type": "qwen2"})
