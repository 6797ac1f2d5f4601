"""Adapter files may come from anywhere: nothing in them runs, and lies are found out."""

from __future__ import annotations

import contextlib
import io
import json
import os
import pickle
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ecellm_mlx.device.backend import mx

from converters.errors import ConversionError
from converters.tensors import read_sharded, read_tensors
from converters.torch_file import read_torch


def write_safetensors(
    path: Path, header: Any, data: bytes = b"", length: int | None = None
) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)
    return path


def entry(shape: list[int], first: int, last: int, dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [first, last]}


HOSTILE: dict[str, tuple[Any, bytes, int | None]] = {
    "huge length": ({"a": entry([2], 0, 8)}, bytes(8), 2**62),
    "length past the end": ({"a": entry([2], 0, 8)}, b"", 4096),
    "overlap": ({"a": entry([2], 0, 8), "b": entry([2], 4, 12)}, bytes(12), None),
    "hole": ({"a": entry([2], 0, 8), "b": entry([2], 12, 20)}, bytes(20), None),
    "shape of another size": ({"a": entry([4], 0, 8)}, bytes(8), None),
    "overflowing shape": ({"a": entry([2**40, 2**40], 0, 8)}, bytes(8), None),
    "negative offset": ({"a": entry([2], -8, 0)}, bytes(8), None),
    "backwards": ({"a": entry([2], 8, 0)}, bytes(8), None),
    "past the end": ({"a": entry([1000], 0, 4000)}, bytes(8), None),
    "trailing bytes": ({"a": entry([2], 0, 8)}, bytes(64), None),
    "no JSON": (b"not json at all", b"", None),
    "a list": (b"[1, 2]", b"", None),
    "unknown dtype": ({"a": entry([2], 0, 8, "F99")}, bytes(8), None),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_headers(tmp_path: Path, name: str) -> None:
    path = write_safetensors(tmp_path / "x.safetensors", *HOSTILE[name])
    with pytest.raises(ConversionError, match=r"x\.safetensors is (damaged|trunc|too lo)"):
        read_tensors(path)


@pytest.mark.parametrize("dtype", ["I32", "F64", "U8", "F8_E4M3", "BOOL"])
def test_types_that_no_adapter_has(tmp_path: Path, dtype: str) -> None:
    size = {"I32": 4, "F64": 8}.get(dtype, 1)
    path = write_safetensors(
        tmp_path / "x.safetensors", {"a": entry([2], 0, 2 * size, dtype)}, bytes(2 * size)
    )
    with pytest.raises(ConversionError, match=rf"a \({dtype}\)"):
        read_tensors(path)


@pytest.mark.parametrize(
    "name",
    ["../../etc/passwd", "/etc/passwd", "a/../b", "a..b", "a\\b", "", "a\nb", "ａ.weight"],
)
def test_names_that_are_paths(tmp_path: Path, name: str) -> None:
    path = write_safetensors(tmp_path / "x.safetensors", {name: entry([2], 0, 8)}, bytes(8))
    with pytest.raises(ConversionError, match="no module paths"):
        read_tensors(path)


@given(st.binary(max_size=200), st.integers(0, 2**63))
@settings(max_examples=100, deadline=None)
def test_any_bytes_give_a_sentence(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, length: int
) -> None:
    path = tmp_path_factory.mktemp("any") / "x.safetensors"
    for content in (data, struct.pack("<Q", length) + data):
        path.write_bytes(content)
        # Anything but this error fails the test; an empty file of tensors is a valid one.
        with contextlib.suppress(ConversionError):
            assert read_tensors(path) == {}


def test_a_truncated_file(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    mx.save_safetensors(str(path), {"a.b": mx.ones((8, 8))})
    whole = path.read_bytes()
    for size in (0, 4, 8, 40, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(ConversionError, match=r"x\.safetensors is (damaged|truncated)"):
            read_tensors(path)


@pytest.mark.parametrize(
    "shard",
    ["../secret.safetensors", "/etc/x.safetensors", "a/b.safetensors", "..", "x.bin", ""],
)
def test_shards_that_lie_elsewhere(tmp_path: Path, shard: str) -> None:
    folder = tmp_path / "p"
    folder.mkdir()
    mx.save_safetensors(str(tmp_path / "secret.safetensors"), {"a.b": mx.ones(2)})
    index = folder / "adapter_model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a.b": shard}}))
    with pytest.raises(ConversionError, match="no plain file names"):
        read_sharded(folder, "adapter_model")


def test_shards_that_do_not_agree_with_their_index(tmp_path: Path) -> None:
    index = tmp_path / "adapter_model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a.b": "one.safetensors"}}))
    with pytest.raises(ConversionError, match=r"lacks one\.safetensors"):
        read_sharded(tmp_path, "adapter_model")
    mx.save_safetensors(str(tmp_path / "one.safetensors"), {"a.c": mx.ones(2)})
    with pytest.raises(ConversionError, match=r"does not place a\.c"):
        read_sharded(tmp_path, "adapter_model")
    index.write_text(
        json.dumps({"weight_map": {"a.c": "one.safetensors", "a.d": "one.safetensors"}})
    )
    with pytest.raises(ConversionError, match=r"lack a\.d"):
        read_sharded(tmp_path, "adapter_model")
    index.write_text(json.dumps({"weight_map": []}))
    with pytest.raises(ConversionError, match="no weight_map"):
        read_sharded(tmp_path, "adapter_model")


class Runs:
    """Unpickling an instance creates a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.path}",)


def zipped(path: Path, pickled: bytes, **parts: bytes) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickled)
        for key, data in parts.items():
            archive.writestr(f"archive/data/{key.removeprefix('_')}", data)
    return path


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_pickle_that_runs_a_command_is_refused(tmp_path: Path, protocol: int) -> None:
    mark = tmp_path / "ran"
    hostile = pickle.dumps({"a.b": Runs(mark)}, protocol=protocol)
    path = zipped(tmp_path / "x.bin", hostile)
    with pytest.raises(ConversionError, match="is refused"):
        read_torch(path)
    assert not mark.exists()
    # It would have run.
    pickle.loads(hostile)
    assert mark.exists()


@pytest.mark.parametrize(
    "name",
    [
        "builtins.eval",
        "posix.system",
        "torch.load",
        "torch._utils._rebuild_tensor",
        "numpy.load",
    ],
)
def test_every_other_name_is_refused(tmp_path: Path, name: str) -> None:
    module, attribute = name.rsplit(".", 1)
    program = b"\x80\x02c" + f"{module}\n{attribute}\n".encode() + b")R."
    with pytest.raises(ConversionError, match=rf"names '{name}'"):
        read_torch(zipped(tmp_path / "x.bin", program))


def test_a_state_dictionary_with_a_foreign_object(tmp_path: Path) -> None:
    import torch

    torch.save({"a.b": torch.ones(2), "c.d": np.float64(3)}, tmp_path / "x.bin")
    with pytest.raises(ConversionError, match="is refused"):
        read_torch(tmp_path / "x.bin")
    torch.save({"a.b": torch.ones(2), "epoch": 3}, tmp_path / "y.bin")
    with pytest.raises(ConversionError, match="'epoch' is no tensor"):
        read_torch(tmp_path / "y.bin")
    torch.save({"a.b": torch.ones(2, dtype=torch.int64)}, tmp_path / "z.bin")
    with pytest.raises(ConversionError, match="of the type LongStorage"):
        read_torch(tmp_path / "z.bin")


def test_the_old_format_of_pytorch_is_refused(tmp_path: Path) -> None:
    import torch

    torch.save({"a.b": torch.ones(2)}, tmp_path / "x.bin", _use_new_zipfile_serialization=False)
    with pytest.raises(ConversionError, match="not in PyTorch's zip format"):
        read_torch(tmp_path / "x.bin")


def tensor_program(
    shape: tuple[int, ...], strides: tuple[int, ...], offset: int, count: int
) -> bytes:
    """A pickle of one tensor, written by hand: {"a.b": a view of storage 0}."""

    class Storage:
        def __reduce__(self) -> str:
            raise AssertionError

    class Pickler(pickle._Pickler):  # type: ignore[name-defined]
        def persistent_id(self, value: Any) -> Any:
            if isinstance(value, Storage):
                import torch

                return ("storage", torch.FloatStorage, "0", "cpu", count)
            return None

    class Tensor:
        def __reduce__(self) -> tuple[Any, ...]:
            from torch._utils import _rebuild_tensor_v2

            return _rebuild_tensor_v2, (Storage(), offset, shape, strides, False, {})

    buffer = io.BytesIO()
    Pickler(buffer, protocol=2).dump({"a.b": Tensor()})
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("shape", "strides", "offset"),
    [
        ((5,), (1,), 0),
        ((2, 2), (4, 1), 0),
        ((2,), (1,), 3),
        ((2,), (-1,), 1),
        ((2,), (1,), -1),
        ((1_000_000, 1_000_000), (0, 0), 0),
    ],
)
def test_views_outside_their_storage(
    tmp_path: Path, shape: tuple[int, ...], strides: tuple[int, ...], offset: int
) -> None:
    program = tensor_program(shape, strides, offset, 4)
    with pytest.raises(ConversionError, match="lies outside its storage"):
        read_torch(zipped(tmp_path / "x.bin", program, _0=bytes(16)))
    good = tensor_program((2, 2), (1, 2), 0, 4)
    numbers = np.arange(4, dtype="<f4")
    arrays = read_torch(zipped(tmp_path / "good.bin", good, _0=numbers.tobytes()))
    assert arrays["a.b"].tolist() == [[0, 2], [1, 3]]


def test_a_storage_that_is_short_missing_or_compressed(tmp_path: Path) -> None:
    program = tensor_program((4,), (1,), 0, 4)
    with pytest.raises(ConversionError, match="truncated"):
        read_torch(zipped(tmp_path / "x.bin", program, _0=bytes(12)))
    with pytest.raises(ConversionError, match="is missing"):
        read_torch(zipped(tmp_path / "x.bin", program, _1=bytes(16)))
    with zipfile.ZipFile(tmp_path / "z.bin", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", program)
        archive.writestr("archive/data/0", bytes(16))
    with pytest.raises(ConversionError, match="is compressed"):
        read_torch(tmp_path / "z.bin")


@given(st.binary(max_size=120))
@settings(max_examples=200, deadline=None)
def test_any_pickle_gives_tensors_or_a_sentence(
    tmp_path_factory: pytest.TempPathFactory, program: bytes
) -> None:
    path = zipped(tmp_path_factory.mktemp("any") / "x.bin", b"\x80\x02" + program)
    with pytest.raises(ConversionError, match=r"x\.bin"):
        read_torch(path)
