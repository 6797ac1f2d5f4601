"""Read tensor files that may come from anywhere.

A safetensors header is checked before MLX maps the file (``converters.header``); names,
dtypes and shard names are checked here.
A PyTorch file is decoded without executing its pickle: see ``converters.torch_file``.
"""

from __future__ import annotations

import re
from pathlib import Path

import mlx.core as mx

from converters.errors import ConversionError
from converters.files import read_json
from converters.header import damaged, read_header

# The dtypes that both formats keep; anything else would have to be cast.
DTYPES = ("F32", "F16", "BF16")
_NAME = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*")
_SHARD = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]*")


def read_tensors(path: Path) -> dict[str, mx.array]:
    """Tensors of one safetensors file, in the dtype that they have.

    Raises:
        ConversionError: the file is missing, truncated or hostile, or holds a name or
            a dtype that no adapter has.
    """
    entries = read_header(path).tensors
    check_names(path, list(entries))
    other = {n: e["dtype"] for n, e in entries.items() if e["dtype"] not in DTYPES}
    if other:
        listed = ", ".join(f"{name} ({dtype})" for name, dtype in list(other.items())[:10])
        raise ConversionError(
            f"{path} holds tensors of another type than {', '.join(DTYPES)}: {listed}; save "
            "the adapter in one of these."
        )
    try:
        arrays = mx.load(str(path), format="safetensors")
    except (OSError, RuntimeError, ValueError) as error:
        raise damaged(path, str(error)) from None
    assert isinstance(arrays, dict)
    return arrays


def read_sharded(folder: Path, stem: str) -> dict[str, mx.array]:
    """Tensors of ``<stem>.safetensors``, of the shards of its index, or of ``<stem>.bin``.

    Raises:
        ConversionError: there is none of them, a shard is missing or lies elsewhere, or
            shards and index do not agree.
    """
    from converters.torch_file import read_torch

    single, index = folder / f"{stem}.safetensors", folder / f"{stem}.safetensors.index.json"
    pickled = folder / f"{stem}.bin"
    if single.exists():
        return read_tensors(single)
    if index.exists():
        return _shards(folder, index)
    if pickled.exists():
        arrays = read_torch(pickled)
        check_names(pickled, list(arrays))
        return arrays
    raise ConversionError(
        f"{folder} holds none of {single.name}, {index.name} and {pickled.name}; check the "
        "folder."
    )


def check_names(path: Path, names: list[str]) -> None:
    """Refuse names that are no dotted module path.

    Raises:
        ConversionError: lists them.
    """
    if strange := [name for name in names if not _NAME.fullmatch(name)]:
        listed = ", ".join(ascii(name[:80]) for name in strange[:10])
        raise ConversionError(
            f"{path} holds tensors whose names are no module paths: {listed}; get the adapter "
            "from a source that you trust."
        )


def _shards(folder: Path, index: Path) -> dict[str, mx.array]:
    places = read_json(index).get("weight_map")
    if not isinstance(places, dict) or not places:
        raise ConversionError(f"{index} has no weight_map; copy it again.")
    files = sorted({str(name) for name in places.values()})
    if outside := [
        n for n in files if not _SHARD.fullmatch(n) or not n.endswith(".safetensors")
    ]:
        raise ConversionError(
            f"{index} names shards that are no plain file names: "
            f"{', '.join(ascii(name) for name in outside[:10])}; get the adapter from a source "
            "that you trust."
        )
    if missing := [name for name in files if not (folder / name).exists()]:
        raise ConversionError(f"{folder} lacks {', '.join(missing)}; copy it again.")
    arrays: dict[str, mx.array] = {}
    for file in files:
        for name, array in read_tensors(folder / file).items():
            if places.get(name) != file:
                raise ConversionError(
                    f"{index} does not place {name} in {file}; copy it again."
                )
            arrays[name] = array
    if absent := sorted(places.keys() - arrays.keys()):
        raise ConversionError(
            f"the shards of {index} lack {', '.join(absent[:10])}; copy them again."
        )
    return arrays
