"""Read and check the header of a GGUF file (version 2 and 3, little-endian).

MLX maps a GGUF file and trusts its offsets, so a truncated or hostile file could
end the process. This reader checks every length against the file first. It knows
the container only, nothing of models.

Layout: magic, version, tensor count, key count, key-value pairs, tensor infos,
padding to ``general.alignment``, tensor data.
"""

from __future__ import annotations

import mmap
import struct
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from converters.errors import ConversionError

# GGML type id: (name, values per block, bytes per block)
TENSOR_TYPES = {
    0: ("F32", 1, 4),
    1: ("F16", 1, 2),
    2: ("Q4_0", 32, 18),
    3: ("Q4_1", 32, 20),
    6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24),
    8: ("Q8_0", 32, 34),
    10: ("Q2_K", 256, 84),
    11: ("Q3_K", 256, 110),
    12: ("Q4_K", 256, 144),
    13: ("Q5_K", 256, 176),
    14: ("Q6_K", 256, 210),
    30: ("BF16", 1, 2),
}
_SCALARS = {
    0: "<B",
    1: "<b",
    2: "<H",
    3: "<h",
    4: "<I",
    5: "<i",
    6: "<f",
    7: "<?",
    10: "<Q",
    11: "<q",
    12: "<d",
}
_STRING, _ARRAY = 8, 9
MAX_NAME = 64 * 1024


@dataclass(frozen=True)
class TensorInfo:
    """One tensor: ``shape`` is (rows, columns) as MLX orders it."""

    name: str
    type: str
    shape: tuple[int, ...]
    nbytes: int


@dataclass(frozen=True)
class GgufHeader:
    """Metadata and tensor list of a file whose data is all there."""

    path: Path
    metadata: dict[str, Any]
    tensors: dict[str, TensorInfo]

    def need(self, key: str) -> Any:
        """A metadata value that must be present."""
        if key not in self.metadata:
            raise ConversionError(f"{self.path} has no {key!r}; it is not a complete model.")
        return self.metadata[key]


def read_header(path: Path) -> GgufHeader:
    """Read the header and check that every tensor lies inside the file.

    Raises:
        ConversionError: the file is missing, no GGUF, truncated or inconsistent.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as stream:
            if stream.read(4) != b"GGUF":
                raise ConversionError(f"{path} is not a GGUF file; check the path.")
            with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
                return _Reader(path, data, size).read()
    except FileNotFoundError:
        raise ConversionError(f"{path} does not exist; check the path.") from None
    except OSError as error:
        raise ConversionError(f"{path} cannot be read: {error.strerror}.") from None
    except (struct.error, IndexError):
        raise ConversionError(
            f"{path} is truncated inside its header; download or copy it again."
        ) from None
    except (UnicodeDecodeError, OverflowError) as error:
        raise ConversionError(
            f"{path} has a damaged header ({error}); copy it again."
        ) from None


class _Reader:
    def __init__(self, path: Path, data: mmap.mmap, size: int) -> None:
        self.path = path
        self.data = data
        self.size = size
        self.position = 4

    def read(self) -> GgufHeader:
        version = self.scalar("<I")
        if version not in (2, 3):
            raise ConversionError(
                f"{self.path} is GGUF version {version}; versions 2 and 3 are supported."
            )
        tensor_count, key_count = self.scalar("<Q"), self.scalar("<Q")
        metadata: dict[str, Any] = {}
        for _ in range(key_count):
            key = self.string(MAX_NAME)
            metadata[key] = self.value(self.scalar("<I"))
        infos = [self.tensor() for _ in range(tensor_count)]
        self.check_extent(infos, int(metadata.get("general.alignment", 32)))
        return GgufHeader(self.path, metadata, {info.name: info for info, _ in infos})

    def scalar(self, code: str) -> Any:
        (value,) = struct.unpack_from(code, self.data, self.position)
        self.position += struct.calcsize(code)
        return value

    def string(self, limit: int | None = None) -> str:
        length = self.scalar("<Q")
        end = self.position + length
        if end > self.size or (limit and length > limit):
            raise IndexError(length)
        text = self.data[self.position : end].decode("utf-8")
        self.position = end
        return text

    def value(self, kind: int) -> Any:
        if kind in _SCALARS:
            return self.scalar(_SCALARS[kind])
        if kind == _STRING:
            return self.string()
        if kind != _ARRAY:
            raise ConversionError(f"{self.path} has a metadata value of unknown type {kind}.")
        item, count = self.scalar("<I"), self.scalar("<Q")
        if count > self.size:
            raise IndexError(count)
        if item == _STRING:
            return [self.string() for _ in range(count)]
        if item not in _SCALARS:
            raise ConversionError(f"{self.path} has a metadata array of unknown type {item}.")
        code = f"<{count}{_SCALARS[item][1]}"
        values = list(struct.unpack_from(code, self.data, self.position))
        self.position += struct.calcsize(code)
        return values

    def tensor(self) -> tuple[TensorInfo, int]:
        name = self.string(MAX_NAME)
        rank = self.scalar("<I")
        if rank > 4:
            raise ConversionError(f"{self.path}: tensor {name} has {rank} dimensions.")
        shape = tuple(self.scalar("<Q") for _ in range(rank))
        kind, offset = self.scalar("<I"), self.scalar("<Q")
        if kind not in TENSOR_TYPES:
            raise ConversionError(f"{self.path}: tensor {name} has the unknown type {kind}.")
        type_name, block, block_bytes = TENSOR_TYPES[kind]
        values = prod(shape)
        if shape and shape[0] % block:
            raise ConversionError(f"{self.path}: tensor {name} does not fill its blocks.")
        # GGUF lists the fastest dimension first.
        info = TensorInfo(name, type_name, shape[::-1], values // block * block_bytes)
        return info, offset

    def check_extent(self, infos: list[tuple[TensorInfo, int]], alignment: int) -> None:
        if alignment < 1:
            raise ConversionError(f"{self.path} has an alignment of {alignment}.")
        start = -(-self.position // alignment) * alignment
        for info, offset in infos:
            end = start + offset + info.nbytes
            if end > self.size:
                raise ConversionError(
                    f"{self.path} is truncated: tensor {info.name} needs {end:,} bytes, the "
                    f"file has {self.size:,}; download or copy it again."
                )
