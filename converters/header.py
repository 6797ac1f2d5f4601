"""The header of a safetensors file, checked before anything maps the file.

Reads no weights and loads no mlx, so that a model of many gigabytes is judged at once.
What usually happens to files is told in words (cut short, a sign-in page, a Git LFS
pointer); the safetensors library then judges lengths, offsets, shapes and types.
"""

from __future__ import annotations

import json
import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from converters.errors import ConversionError

# The limit that the safetensors library itself sets.
MAX_HEADER = 100_000_000
LFS_POINTER = b"version https://git-lfs"
AGAIN = "pull or copy it again"


@dataclass(frozen=True)
class Header:
    """What a safetensors file says of its tensors.

    Attributes:
        tensors: name → ``dtype``, ``shape`` and ``data_offsets``.
        metadata: the text that it carries beside them.
        raw: the header as it stands in the file, after the 8 bytes of its length.
        size: of the whole file, in bytes.
    """

    tensors: dict[str, dict[str, Any]]
    metadata: dict[str, str]
    raw: bytes
    size: int


def read_header(path: Path) -> Header:
    """The header of ``path``, if the file is whole.

    Raises:
        ConversionError: the file is missing, cut short, too long, hostile or something
            else.
    """
    header = peek_header(path)
    end = start = 8 + len(header.raw)
    for name, entry in header.tensors.items():
        try:
            first, last = entry["data_offsets"]
            sound = 0 <= int(first) <= int(last) and isinstance(entry["dtype"], str)
        except (KeyError, TypeError, ValueError, OverflowError):
            sound = False
        if not sound:
            raise damaged(path, f"the header's entry of tensor {name} makes no sense")
        end = max(end, start + int(last))
    if header.size != end:
        raise ConversionError(
            f"{path} is {'truncated' if header.size < end else 'too long'}",
            expected=f"{end:,} bytes",
            got=f"{header.size:,}",
            cure=AGAIN,
        )
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            file.keys()
    except (SafetensorError, OSError) as error:
        raise damaged(path, str(error)) from None
    return header


def peek_header(path: Path) -> Header:
    """The header of ``path``, whatever may follow it.

    Raises:
        ConversionError: the file does not start with a header.
    """
    try:
        with path.open("rb") as stream:
            size = os.fstat(stream.fileno()).st_size
            raw = _raw(path, stream, size)
    except OSError as error:
        raise ConversionError(
            f"{path} cannot be read", got=str(error.strerror), cure=AGAIN
        ) from None
    try:
        entries = json.loads(raw)
    except (ValueError, RecursionError):
        raise damaged(path, "its header is not JSON") from None
    if not isinstance(entries, dict):
        raise damaged(path, "its header is no JSON object")
    metadata = entries.pop("__metadata__", None) or {}
    return Header(entries, metadata, raw, size)


def damaged(path: Path, how: str) -> ConversionError:
    """The error of a file that is not what it should be."""
    return ConversionError(f"{path} is damaged: {how}", cure=AGAIN)


def _raw(path: Path, stream: BinaryIO, size: int) -> bytes:
    start = stream.read(len(LFS_POINTER))
    if start == LFS_POINTER:
        raise ConversionError(
            f"{path} is a Git LFS pointer, not the weights themselves",
            cure="run `git lfs pull` in its folder, or use `ecellm models pull`",
        )
    if len(start) < 8:
        raise damaged(path, f"it has {size} bytes, fewer than a header needs")
    length: int = struct.unpack("<Q", start[:8])[0]
    if length > MAX_HEADER:
        raise damaged(path, "it does not start with a safetensors header")
    if 8 + length > size:
        raise ConversionError(
            f"{path} is truncated within its header",
            expected=f"at least {8 + length:,} bytes",
            got=f"{size:,}",
            cure=AGAIN,
        )
    stream.seek(8)
    return stream.read(length)
