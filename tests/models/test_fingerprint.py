"""The identity of a model folder, and what counts as a whole weights file."""

from __future__ import annotations

import json
import shutil
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from ecellm_mlx.errors import ModelError
from ecellm_mlx.models.fingerprint import (
    BLOCK,
    BLOCKS_PER_FILE,
    VOLATILE,
    base_fingerprint,
    verify_safetensors,
    weight_files,
)

pytestmark = pytest.mark.unit

CONFIG = {"model_type": "llama", "hidden_size": 8, "rope_scaling": {"factor": 2}}
INDEX = "model.safetensors.index.json"


def tensors(seed: int = 0) -> dict[str, np.ndarray]:
    draw = np.random.default_rng(seed)
    return {
        "model.embed_tokens.weight": draw.normal(size=(300, 64)).astype(np.float32),
        "lm_head.weight": draw.normal(size=(64, 300)).astype(np.float32),
    }


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A folder with one small weights file, which is sampled entirely."""
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIG))
    save_file(tensors(), folder / "model.safetensors", metadata={"format": "mlx"})
    return folder


def flip(path: Path, offset: int) -> None:
    """Change one byte of a file; a negative offset counts from its end."""
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    path.write_bytes(data)


def write_raw(path: Path, header: Any, data: bytes = b"") -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


def test_a_copy_elsewhere_has_the_same_fingerprint(model: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(model, tmp_path / "far" / "away")
    (copy / "README.md").write_text("a note")
    value = base_fingerprint(model)
    assert base_fingerprint(copy) == value
    assert len(value) == 64
    assert int(value, 16)


def test_layout_and_volatile_keys_of_the_config_do_not_count(model: Path) -> None:
    before = base_fingerprint(model)
    noise = dict.fromkeys(VOLATILE, "other")
    config = {"rope_scaling": {**noise, "factor": 2}, **noise, "hidden_size": 8}
    config["model_type"] = "llama"
    (model / "config.json").write_text(json.dumps(config, indent=4))
    assert base_fingerprint(model) == before


@pytest.mark.parametrize(
    "change",
    [{"hidden_size": 16}, {"quantization": {"bits": 4}}, {"rope_scaling": {"factor": 4}}],
)
def test_a_changed_architecture_counts(model: Path, change: dict[str, Any]) -> None:
    before = base_fingerprint(model)
    (model / "config.json").write_text(json.dumps(CONFIG | change))
    assert base_fingerprint(model) != before


@pytest.mark.parametrize("offset", [-1, -60_000, -100_000])
def test_a_changed_weight_counts(model: Path, offset: int) -> None:
    before = base_fingerprint(model)
    flip(model / "model.safetensors", offset)
    assert base_fingerprint(model) != before


def test_a_changed_header_counts(model: Path) -> None:
    before = base_fingerprint(model)
    renamed = {name.replace("lm_head", "output"): t for name, t in tensors().items()}
    save_file(renamed, model / "model.safetensors", metadata={"format": "mlx"})
    assert base_fingerprint(model) != before


def test_the_order_of_shards_counts(model: Path) -> None:
    (model / "model.safetensors").unlink()
    names = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    for name, (key, tensor) in zip(names, tensors().items(), strict=True):
        save_file({key: tensor}, model / name)
    before = base_fingerprint(model)
    first, second = (model / name for name in names)
    first.rename(model / "x")
    second.rename(first)
    (model / "x").rename(second)
    assert base_fingerprint(model) != before


def test_large_files_are_sampled_from_end_to_end(model: Path) -> None:
    path = model / "model.safetensors"
    size = 3 * BLOCKS_PER_FILE * BLOCK
    entry = {"w": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}
    write_raw(path, entry, bytes(size))
    start = path.stat().st_size - size
    before = base_fingerprint(model)
    seen = []
    for offset in (start, start + BLOCK - 1, path.stat().st_size - 1, start + BLOCK):
        flip(path, offset)
        seen.append(base_fingerprint(model) != before)
        flip(path, offset)
    # The last one lies between two blocks: the documented limit.
    assert seen == [True, True, True, False]
    # A change as wide as the distance of two blocks is seen wherever it is.
    data = bytearray(path.read_bytes())
    middle = start + size // 2 + 12_345
    data[middle : middle + 4 * BLOCK] = b"\1" * (4 * BLOCK)
    path.write_bytes(data)
    assert base_fingerprint(model) != before


@pytest.mark.parametrize(
    ("text", "match"),
    [
        (None, "it has no config.json"),
        ("{", "config.json is damaged"),
        ("[]", "no JSON object"),
    ],
)
def test_a_folder_without_a_config_has_no_fingerprint(
    model: Path, text: str | None, match: str
) -> None:
    (model / "config.json").unlink()
    if text is not None:
        (model / "config.json").write_text(text)
    with pytest.raises(ModelError, match=match):
        base_fingerprint(model)


def test_a_whole_file_is_verified(model: Path) -> None:
    verify_safetensors(model / "model.safetensors")
    write_raw(model / "empty.safetensors", {"__metadata__": {"format": "pt"}})
    verify_safetensors(model / "empty.safetensors")


@pytest.mark.parametrize("cut", [1, 1000, 100_000])
def test_a_truncated_file_is_refused(model: Path, cut: int) -> None:
    path = model / "model.safetensors"
    whole = path.stat().st_size
    with path.open("r+b") as stream:
        stream.truncate(whole - cut)
    expected = (
        rf"model.safetensors is truncated: expected {whole:,} bytes, got {whole - cut:,}; "
        "pull or copy it again"
    )
    with pytest.raises(ModelError, match=expected):
        verify_safetensors(path)


def test_a_file_with_something_after_its_end_is_refused(model: Path) -> None:
    path = model / "model.safetensors"
    with path.open("ab") as stream:
        stream.write(b"more")
    with pytest.raises(ModelError, match=r"is too long: expected [\d,]+ bytes"):
        verify_safetensors(path)


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"", "has 0 bytes, fewer than a header needs"),
        (b"1234567", "fewer than a header needs"),
        (b"<!DOCTYPE html><html>sign in</html>", "does not start with a safetensors header"),
        (struct.pack("<Q", 5000) + b"{}", r"truncated within its header: expected at least"),
        (struct.pack("<Q", 2) + b"{x", "its header is not JSON"),
        (struct.pack("<Q", 2) + b"\xff\xff", "its header is not JSON"),
        (struct.pack("<Q", 2) + b"[]", "its header is no JSON object"),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n",
            r"is a Git LFS pointer.*git lfs pull",
        ),
    ],
)
def test_a_file_that_is_no_safetensors_is_refused(
    model: Path, content: bytes, match: str
) -> None:
    path = model / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=match):
        verify_safetensors(path)


@pytest.mark.parametrize(
    "entry",
    [
        {"dtype": "U8", "shape": [4]},
        {"dtype": "U8", "shape": [4], "data_offsets": [4, 0]},
        {"dtype": "U8", "shape": [4], "data_offsets": [-4, 4]},
        {"dtype": "U8", "shape": [4], "data_offsets": [0]},
        {"dtype": "U8", "shape": [4], "data_offsets": ["a", "b"]},
        {"shape": [4], "data_offsets": [0, 4]},
        [0, 4],
        None,
    ],
)
def test_a_tensor_entry_that_makes_no_sense_is_refused(tmp_path: Path, entry: object) -> None:
    path = write_raw(tmp_path / "model.safetensors", {"lm_head.weight": entry}, b"1234")
    with pytest.raises(ModelError, match=r"entry of tensor lm_head.weight makes no sense"):
        verify_safetensors(path)


def test_a_tensor_beyond_the_end_is_refused(tmp_path: Path) -> None:
    entry = {"w": {"dtype": "U8", "shape": [9], "data_offsets": [0, 9]}}
    path = write_raw(tmp_path / "model.safetensors", entry, b"1234")
    with pytest.raises(ModelError, match=r"is truncated"):
        verify_safetensors(path)


def test_a_file_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"model.safetensors cannot be read: got No such file"):
        verify_safetensors(tmp_path / "model.safetensors")


def test_weights_without_an_index_are_found_by_name(model: Path) -> None:
    (model / "adapters.safetensors").write_bytes(b"")
    (model / "consolidated.safetensors").write_bytes(b"")
    assert weight_files(model) == [model / "model.safetensors"]


def test_an_index_says_which_weights_count(model: Path) -> None:
    for name in ("a.safetensors", "b.safetensors"):
        (model / name).write_bytes(b"")
    weight_map = {"x": "b.safetensors", "y": "a.safetensors", "z": "b.safetensors"}
    (model / INDEX).write_text(json.dumps({"weight_map": weight_map}))
    assert [p.name for p in weight_files(model)] == ["a.safetensors", "b.safetensors"]
    (model / "b.safetensors").unlink()
    with pytest.raises(ModelError, match=r"lacks 1 of 2 weight files: got no b.safetensors"):
        weight_files(model)


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"weight_map": []}', '{"weight_map": {}}'])
def test_a_damaged_index_is_refused(model: Path, text: str) -> None:
    (model / INDEX).write_text(text)
    with pytest.raises(ModelError, match=rf"{INDEX} is damaged: .*pull or copy it again"):
        weight_files(model)


def test_a_folder_with_pickled_weights_only_is_refused(model: Path) -> None:
    (model / "model.safetensors").unlink()
    (model / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(ModelError, match=r"holds no weights: .*got pytorch_model.bin"):
        weight_files(model)
