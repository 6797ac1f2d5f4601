"""The model that tests pull from the fake hub: what is wanted of it, and what is not."""

from __future__ import annotations

import json
import random
import struct
from pathlib import Path

REPO = "shop/tiny-model"
NAME = "shop--tiny-model"
WEIGHTS = "model.safetensors"


def weights(size: int, seed: int = 0) -> bytes:
    """A safetensors file with one tensor of ``size`` bytes."""
    entry = {"w": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}
    header = json.dumps(entry).encode()
    return struct.pack("<Q", len(header)) + header + random.Random(seed).randbytes(size)


FILES = {
    "config.json": b'{"model_type": "llama"}',
    "generation_config.json": b"{}",
    WEIGHTS: weights(2_500_000),
    "tokenizer.json": b'{"model": {}}',
    "tokenizer.model": b"sentencepiece",
    "tokenizer_config.json": b"{}",
    "merges.txt": b"a b\n",
    "chat_template.jinja": b"{{ messages }}",
}
UNWANTED = {
    "README.md": b"# model",
    "pytorch_model.bin": b"pickle",
    "pytorch_model.bin.index.json": b"{}",
    "consolidated.safetensors": weights(10),
    "model.gguf": b"GGUF",
    "modeling_tiny.py": b"raise SystemExit",
    "tokenizer_tiny.py": b"raise SystemExit",
    "onnx/model.onnx": b"onnx",
    "onnx/config.json": b"{}",
    "original/model.safetensors": weights(10),
    ".gitattributes": b"",
    ".ecellm-source.json": b"{}",
}
TOTAL = sum(map(len, FILES.values()))


def model_files(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir() if not p.name.startswith(".")}
