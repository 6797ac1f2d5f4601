"""GGUF import: exact, and safe against damaged files.

The reference is transformers' own GGUF loader with PyTorch in float32.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ecellm_mlx.device.backend import mx
from ecellm_mlx.models import loading

from converters.errors import ConversionError
from converters.gguf import import_gguf, mlx_name
from converters.gguf_header import read_header

QUESTION = [{"role": "user", "content": "What is the capital of France?"}]


@pytest.fixture(scope="module")
def reference(gguf_file: Path) -> Any:
    """The same file, de-quantized by transformers."""
    import torch
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(
        gguf_file.parent, gguf_file=gguf_file.name, dtype=torch.float32
    ).eval()


@pytest.fixture(scope="module")
def ours(smollm2: Path) -> loading.LoadedModel:
    return loading.load(smollm2)


@pytest.mark.proof
def test_logits_equal_the_dequantized_reference(
    ours: loading.LoadedModel, reference: Any
) -> None:
    import torch

    text = "Sony WH-1000XM4 headphones, 2-pack: £1,299.00\n\n### Response:\n"
    tokens = ours.tokenizer.encode(text)
    with torch.no_grad():
        expected = reference(torch.tensor([tokens])).logits[0].numpy()
    got = np.array(ours.model(mx.array([tokens]))[0])
    assert np.abs(got - expected).max() < 1e-3


@pytest.mark.proof
def test_greedy_continuation_equals_the_reference(
    ours: loading.LoadedModel, reference: Any
) -> None:
    import torch

    prompt = ours.tokenizer.apply_chat_template(
        QUESTION, add_generation_prompt=True, tokenize=False
    )
    tokens = ours.tokenizer.encode(prompt)
    expected = reference.generate(
        torch.tensor([tokens]), max_new_tokens=12, do_sample=False, pad_token_id=2
    )[0, len(tokens) :].tolist()
    from mlx_lm.generate import generate_step

    steps = generate_step(mx.array(tokens), ours.model, max_tokens=len(expected))
    got = [int(token) for token, _ in steps]
    assert got == expected
    assert ours.tokenizer.decode(got, skip_special_tokens=True).startswith(
        "The capital of France is Paris."
    )


def test_nothing_is_requantized(smollm2: Path, gguf_file: Path) -> None:
    stored = mx.load(str(smollm2 / "model.safetensors"))
    original = mx.load(str(gguf_file))
    name = "blk.3.ffn_down"
    for part in ("weight", "scales", "biases"):
        assert mx.array_equal(
            stored[f"model.layers.3.mlp.down_proj.{part}"], original[f"{name}.{part}"]
        )
    assert stored["model.layers.3.mlp.down_proj.weight"].dtype == mx.uint32
    assert len(stored) == len(original)


def test_tokenizer_splits_digits_and_knows_its_special_tokens(
    ours: loading.LoadedModel,
) -> None:
    tokenizer = ours.tokenizer
    assert tokenizer.tokenize("A 1299 B") == ["A", "Ġ", "1", "2", "9", "9", "ĠB"]
    assert tokenizer.encode("<|im_end|>") == [tokenizer.eos_token_id] == [2]
    text = "Crème brûlée 🍮 — 50% off!\n\t«日本» it's"
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert ours.stop_ids == {2}


@pytest.mark.proof
def test_tokenizer_agrees_with_transformers_on_words(
    ours: loading.LoadedModel, gguf_file: Path
) -> None:
    from transformers import AutoTokenizer

    other = AutoTokenizer.from_pretrained(gguf_file.parent, gguf_file=gguf_file.name)
    text = "They've bought   wireless headphones;\n\nthe customer's review: très bien!"
    assert ours.tokenizer.encode(text) == other.encode(text)


def test_import_refuses_an_existing_folder(gguf_file: Path, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "mine.txt").write_text("keep")
    with pytest.raises(ConversionError, match="already exists"):
        import_gguf(gguf_file, tmp_path / "model")
    assert (tmp_path / "model" / "mine.txt").read_text() == "keep"


def test_unknown_tensor_names_are_refused() -> None:
    assert mlx_name("blk.7.attn_q.weight") == "model.layers.7.self_attn.q_proj.weight"
    with pytest.raises(ConversionError, match=r"blk\.0\.ssm"):
        mlx_name("blk.0.ssm.weight")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a GGUF file"),
        (b"PK\x03\x04zip", "not a GGUF file"),
        (b"GGUF", "truncated"),
        (b"GGUF" + struct.pack("<IQQ", 1, 0, 0), "version 1"),
        # A key count and a string length that would run for ever or allocate everything.
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 2**60), "truncated"),
        (b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 2**63), "truncated"),
        (b"GGUF" + struct.pack("<IQQ", 3, 2**62, 0), "truncated"),
    ],
)
def test_damaged_headers(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "x.gguf"
    path.write_bytes(content)
    with pytest.raises(ConversionError, match=message):
        read_header(path)


@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_a_file_cut_anywhere_is_refused(
    tmp_path: Path, gguf_file: Path, data: st.DataObject
) -> None:
    size = gguf_file.stat().st_size
    cut = data.draw(st.integers(0, 3_000_000) | st.integers(size - 2_000_000, size - 1))
    path = tmp_path / "cut.gguf"
    path.unlink(missing_ok=True)
    with gguf_file.open("rb") as source, path.open("wb") as target:
        target.write(source.read(min(cut, 3_000_000)))
        target.truncate(cut)
    with pytest.raises(ConversionError, match=r"cut\.gguf"):
        read_header(path)


def test_types_that_need_requantization_are_refused(tmp_path: Path) -> None:
    def text(value: str) -> bytes:
        return struct.pack("<Q", len(value)) + value.encode()

    header = b"GGUF" + struct.pack("<IQQ", 3, 1, 1)
    header += text("general.architecture") + struct.pack("<I", 8) + text("llama")
    header += text("token_embd.weight") + struct.pack("<IQQIQ", 2, 256, 1, 14, 0)
    path = tmp_path / "q6.gguf"
    path.write_bytes(header.ljust(-(-len(header) // 32) * 32, b"\0") + bytes(210))
    with pytest.raises(ConversionError, match="Q6_K"):
        import_gguf(path, tmp_path / "model")
    assert not (tmp_path / "model").exists()
