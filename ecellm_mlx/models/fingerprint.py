"""The identity of a model folder, and whether its weight files are whole.

Nothing here loads weights: headers are parsed and blocks are sampled, so that a
model of 26 GB is identified in well under a second. Works on plain files only.
"""

from __future__ import annotations

import hashlib
import json
import struct
from pathlib import Path
from typing import Any

from ecellm_mlx.errors import ConversionError, ModelError

from converters.header import AGAIN, peek_header, read_header

BLOCK = 64 * 1024
BLOCKS_PER_FILE = 64
INDEX = "model.safetensors.index.json"

# What a config says of tools, of a place or of a default, and not of the model.
VOLATILE = frozenset(
    {
        "_attn_implementation",
        "_commit_hash",
        "_name_or_path",
        "dtype",
        "torch_dtype",
        "transformers_version",
        "use_cache",
    }
)


def base_fingerprint(folder: Path) -> str:
    """Identity of the model in ``folder``, as 64 hexadecimal digits.

    A SHA-256 over ``config.json`` (parsed, keys sorted, without ``VOLATILE`` ones)
    and, for each weights file, its name, size, safetensors header and up to 64
    blocks of 64 KiB at even distances, the first and the last byte included. It
    does not depend on where the folder is, on file times, or on how the config is
    laid out. Files of up to 4 MiB of data are covered entirely.

    It is meant to catch the wrong base, not an attacker. What it misses: a change
    of larger files that lies between the sampled blocks (a training step changes
    every block, a flipped bit hardly ever is in one), and any change to the
    tokenizer, the chat template or the generation config. A quantized or converted
    copy is another model and has another fingerprint.

    Raises:
        ModelError: ``config.json`` or a weights file is missing or damaged.
    """
    digest = hashlib.sha256()
    _add(digest, json.dumps(_stable(_read_config(folder)), sort_keys=True).encode())
    for path in weight_files(folder):
        _add(digest, path.name.encode())
        try:
            header = peek_header(path)
        except ConversionError as error:
            raise error.retold(ModelError) from None
        _add(digest, struct.pack("<Q", header.size))
        _add(digest, header.raw)
        with path.open("rb") as stream:
            for start in _sample(8 + len(header.raw), header.size):
                stream.seek(start)
                digest.update(stream.read(BLOCK))
    return digest.hexdigest()


def verify_safetensors(path: Path) -> None:
    """Prove that ``path`` is a whole safetensors file, without reading its weights.

    Raises:
        ModelError: the header is damaged, a tensor lies outside the file, or the
            file is shorter or longer than its header says.
    """
    try:
        read_header(path)
    except ConversionError as error:
        raise error.retold(ModelError) from None


def weight_files(folder: Path) -> list[Path]:
    """The weights of a model: the shards that its index names, else ``model*.safetensors``.

    Raises:
        ModelError: there are none, a shard is missing, or the index is damaged.
    """
    index = folder / INDEX
    if not index.is_file():
        if files := sorted(folder.glob("model*.safetensors")):
            return files
        raise ModelError(
            f"{folder} holds no weights",
            expected="model.safetensors, or shards with an index",
            got=", ".join(sorted(p.name for p in folder.glob("*.bin"))),
            cure="pull the model again, or convert it to safetensors first",
        )
    try:
        names = sorted(
            set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        )
        files = [folder / name for name in names]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise _damaged(index, f"it is no index of shards ({error!r})") from None
    if not files:
        raise _damaged(index, "it names no shard")
    if missing := [path.name for path in files if not path.is_file()]:
        raise ModelError(
            f"{folder} lacks {len(missing)} of {len(files)} weight files",
            got=f"no {', '.join(missing)}",
            cure=AGAIN,
        )
    return files


def _add(digest: hashlib._Hash, part: bytes) -> None:
    # The length keeps neighbouring parts apart: ("ab", "c") is not ("a", "bc").
    digest.update(struct.pack("<Q", len(part)))
    digest.update(part)


def _sample(start: int, end: int) -> list[int]:
    """Offsets of the blocks to read from the data that lies in ``[start, end)``."""
    count = min(BLOCKS_PER_FILE, -(-(end - start) // BLOCK))
    if count < 2:
        return [start] * count
    last = end - start - BLOCK
    return [start + last * i // (count - 1) for i in range(count)]


def _stable(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _stable(v) for k, v in value.items() if k not in VOLATILE}
    if isinstance(value, list):
        return [_stable(v) for v in value]
    return value


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelError(
            f"{folder} is no model folder: it has no config.json",
            cure="give the folder that holds config.json and the weights",
        ) from None
    except (OSError, ValueError) as error:
        raise _damaged(path, str(error)) from None
    if not isinstance(config, dict):
        raise _damaged(path, "it is no JSON object")
    return config


def _damaged(path: Path, how: str) -> ModelError:
    return ModelError(f"{path} is damaged: {how}", cure=AGAIN)
