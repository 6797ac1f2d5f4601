"""Write safetensors models tensor by tensor, so that no more than one is in memory.

A model is a sequence of parts. Names, shapes and dtypes are known beforehand, values
are computed when their turn comes and forgotten once they are in the file. Layout of
a file: length of the header (8 bytes), header (JSON, padded with spaces), data.
"""

from __future__ import annotations

import json
import math
import struct
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import mlx.core as mx
import numpy as np

from converters.errors import ConversionError
from converters.files import write_json

# What the hub and transformers use: large enough for few files, small enough to fetch again.
MAX_SHARD_BYTES = 5_000_000_000
DTYPES = {
    mx.float32: "F32",
    mx.float16: "F16",
    mx.bfloat16: "BF16",
    mx.uint32: "U32",
    mx.uint8: "U8",
}
FLOATS = {"float32": mx.float32, "float16": mx.float16, "bfloat16": mx.bfloat16}

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Tensor:
    """Shape and dtype of a tensor that is still to be computed."""

    shape: tuple[int, ...]
    dtype: mx.Dtype

    @property
    def nbytes(self) -> int:
        """Bytes of the values."""
        return math.prod(self.shape) * self.dtype.size


@dataclass(frozen=True)
class Part:
    """Tensors that are computed together: one weight, or a quantized weight's three."""

    tensors: dict[str, Tensor]
    compute: Callable[[], dict[str, mx.array]]

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(tensor.nbytes for tensor in self.tensors.values())


def write_model(
    folder: Path,
    parts: Iterable[Part],
    *,
    framework: str,
    max_shard_bytes: int = MAX_SHARD_BYTES,
    progress: Progress = lambda _done, _total: None,
) -> int:
    """Write ``parts`` as ``model.safetensors``, or as shards with their index.

    Args:
        folder: an existing folder.
        parts: in the order of the file; a part is never split.
        framework: ``format`` in the file's metadata: ``pt`` or ``mlx``.
        max_shard_bytes: a file holds more only if one part does.
        progress: called with (bytes written, bytes in all).

    Returns:
        Bytes of all tensors.

    Raises:
        ConversionError: a computed tensor is not what its part announced.
        OSError: the disk is full, or the folder cannot be written.
    """
    shards = _shards(parts, max_shard_bytes)
    total = sum(part.nbytes for shard in shards for part in shard)
    where: dict[str, str] = {}
    done = 0
    for number, shard in enumerate(shards, 1):
        name = "model.safetensors"
        if len(shards) > 1:
            name = f"model-{number:05}-of-{len(shards):05}.safetensors"
        where |= {tensor: name for part in shard for tensor in part.tensors}
        with (folder / name).open("wb") as stream:
            stream.write(_header(shard, framework))
            # Popped, not iterated: a part keeps what it is computed from alive.
            while shard:
                part = shard.popleft()
                write_part(stream, part)
                done += part.nbytes
                progress(done, total)
    if len(shards) > 1:
        write_json(
            folder / "model.safetensors.index.json",
            {"metadata": {"total_size": total}, "weight_map": where},
        )
    return total


def write_part(stream: BinaryIO, part: Part) -> None:
    """Compute a part and append its values to ``stream``."""
    values = part.compute()
    for name, tensor in part.tensors.items():
        value = values.pop(name)
        if (tuple(value.shape), value.dtype) != (tensor.shape, tensor.dtype):
            raise ConversionError(
                f"{name} was computed as {value.dtype} {tuple(value.shape)}, not as "
                f"{tensor.dtype} {tensor.shape}; report this."
            )
        stream.write(raw(value))


def raw(array: mx.array) -> memoryview:
    """The bytes of an array, row by row, little-endian."""
    if array.dtype == mx.bfloat16:
        # NumPy has no bfloat16.
        array = array.view(mx.uint16)
    return np.ascontiguousarray(np.asarray(array)).data.cast("B")


def _shards(parts: Iterable[Part], limit: int) -> list[deque[Part]]:
    shards: list[deque[Part]] = [deque()]
    size = 0
    for part in parts:
        if shards[-1] and size + part.nbytes > limit:
            shards.append(deque())
            size = 0
        shards[-1].append(part)
        size += part.nbytes
    return shards


def _header(shard: Iterable[Part], framework: str) -> bytes:
    header: dict[str, Any] = {"__metadata__": {"format": framework}}
    offset = 0
    for part in shard:
        for name, tensor in part.tensors.items():
            end = offset + tensor.nbytes
            header[name] = {
                "dtype": DTYPES[tensor.dtype],
                "shape": tensor.shape,
                "data_offsets": [offset, end],
            }
            offset = end
    text = json.dumps(header).encode()
    # Data starts at a multiple of 8, so that readers may map it.
    text = text.ljust(-(-len(text) // 8) * 8)
    return struct.pack("<Q", len(text)) + text
