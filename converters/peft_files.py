"""The files of a PEFT adapter: tensor names, layouts and shapes, as PEFT has them.

``adapter_config.json`` and ``adapter_model.safetensors`` (one file, shards with an
index, or ``adapter_model.bin``). Knows nothing of mlx-lm's names.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx

from converters.adapter import LoraModule
from converters.errors import ConversionError
from converters.files import read_json, write_json
from converters.header import read_header
from converters.names import ADAPTER_CONFIG as CONFIG
from converters.names import PEFT_PREFIX, natural
from converters.names import PEFT_WEIGHTS as WEIGHTS
from converters.peft_config import PeftSettings, parse
from converters.tensors import read_sharded

STEM = "adapter_model"
LINEAR, EMBEDDING = ("lora_A.weight", "lora_B.weight"), ("lora_embedding_A", "lora_embedding_B")
MAGNITUDE = "lora_magnitude_vector"
# PEFT writes the frozen layer beside an adapter on the embedding or the output layer.
COPIES = ("base_layer.weight", "base_layer.bias")
_LEAVES = (*LINEAR, *EMBEDDING, MAGNITUDE, f"{MAGNITUDE}.weight", *COPIES)


@dataclass(frozen=True)
class PeftAdapter:
    """An adapter under Hugging Face's names.

    Attributes:
        settings: its configuration.
        modules: path → update, with PEFT's rank and scale for that path.
        embeddings: paths that are stored as embeddings.
        copies: ``<path>.weight`` or ``.bias`` → PEFT's copy of the frozen base.
        recorded: what ``to_peft`` noted in the metadata; empty if PEFT wrote the file.
    """

    settings: PeftSettings
    modules: Mapping[str, LoraModule]
    embeddings: frozenset[str]
    copies: Mapping[str, mx.array]
    recorded: Mapping[str, Any]


def read_peft(folder: Path) -> PeftAdapter:
    """Read a PEFT LoRA adapter.

    Raises:
        ConversionError: files are missing, damaged or hostile, a setting cannot be
            represented, or tensors are unknown, missing or of another shape than the
            settings say; all of them are listed.
    """
    settings = parse(folder, read_json(folder / CONFIG))
    parts: dict[str, dict[str, mx.array]] = {}
    copies: dict[str, mx.array] = {}
    problems = []
    for name, array in read_sharded(folder, STEM).items():
        leaf = next((leaf for leaf in _LEAVES if name.endswith(f".{leaf}")), None)
        if leaf is None or not name.startswith(PEFT_PREFIX):
            problems.append(f"{name} is unknown")
            continue
        module = name.removeprefix(PEFT_PREFIX).removesuffix(f".{leaf}")
        if leaf in COPIES:
            copies[f"{module}.{leaf.removeprefix('base_layer.')}"] = array
        else:
            leaf = MAGNITUDE if leaf.startswith(MAGNITUDE) else leaf
            parts.setdefault(module, {})[leaf] = array
    modules: dict[str, LoraModule] = {}
    for name in sorted(parts, key=natural):
        update, wrong = _module(name, parts[name], settings)
        problems += wrong
        if update is not None:
            modules[name] = update
    if not parts:
        problems.append("it holds no LoRA tensor")
    if problems:
        raise ConversionError(
            f"the adapter {folder} is inconsistent: {'; '.join(problems)}; save or copy it "
            "again."
        )
    embeddings = frozenset(name for name, tensors in parts.items() if EMBEDDING[0] in tensors)
    return PeftAdapter(settings, modules, embeddings, copies, _recorded(folder))


def write_peft(
    folder: Path,
    config: Mapping[str, Any],
    modules: Mapping[str, LoraModule],
    *,
    embeddings: Collection[str] = (),
    copies: Mapping[str, mx.array] | None = None,
    recorded: Mapping[str, Any] | None = None,
) -> None:
    """Write a PEFT adapter into an existing folder; see ``PeftAdapter`` for the parts."""
    tensors: dict[str, mx.array] = {}
    for name, module in modules.items():
        prefix = PEFT_PREFIX + name
        first, second = EMBEDDING if name in embeddings else LINEAR
        tensors[f"{prefix}.{first}"] = mx.contiguous(module.a.T)
        tensors[f"{prefix}.{second}"] = mx.contiguous(module.b.T)
        if module.m is not None:
            tensors[f"{prefix}.{MAGNITUDE}"] = module.m
    for name, array in (copies or {}).items():
        module_name, _, leaf = name.rpartition(".")
        tensors[f"{PEFT_PREFIX}{module_name}.base_layer.{leaf}"] = array
    metadata = {"format": "pt"}
    if recorded:
        metadata["ecellm"] = json.dumps(recorded, ensure_ascii=True)
    mx.save_safetensors(str(folder / WEIGHTS), tensors, metadata=metadata)
    write_json(folder / CONFIG, dict(config))


def _module(
    name: str, tensors: Mapping[str, mx.array], settings: PeftSettings
) -> tuple[LoraModule | None, list[str]]:
    kinds = [pair for pair in (LINEAR, EMBEDDING) if any(leaf in tensors for leaf in pair)]
    if len(kinds) != 1:
        return None, [f"{name} has tensors of two kinds" if kinds else f"{name} lacks A and B"]
    wanted = [*kinds[0], *([MAGNITUDE] if settings.dora else [])]
    problems = [f"{name}.{leaf} is missing" for leaf in wanted if leaf not in tensors]
    if MAGNITUDE in tensors and not settings.dora:
        problems.append(f"{name}.{MAGNITUDE} is there, but use_dora is not set")
    first, second = (tensors.get(leaf) for leaf in kinds[0])
    rank = settings.rank_of(name)
    if first is not None and (first.ndim != 2 or first.shape[0] != rank):
        problems.append(
            f"{name}.{kinds[0][0]} has shape {tuple(first.shape)}, and its rank of {rank} "
            f"needs ({rank}, …)"
        )
    if second is not None and (second.ndim != 2 or second.shape[1] != rank):
        problems.append(
            f"{name}.{kinds[0][1]} has shape {tuple(second.shape)}, and its rank of {rank} "
            f"needs (…, {rank})"
        )
    if problems or first is None or second is None:
        return None, problems
    return LoraModule(
        mx.contiguous(first.T),
        mx.contiguous(second.T),
        settings.scale_of(name),
        settings.alpha_of(name),
        tensors.get(MAGNITUDE),
    ), []


def _recorded(folder: Path) -> dict[str, Any]:
    if not (folder / WEIGHTS).exists():
        return {}
    text = read_header(folder / WEIGHTS).metadata.get("ecellm")
    try:
        value = json.loads(text) if text else {}
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise ConversionError(f"{folder / WEIGHTS} has damaged metadata; copy it again.")
    return value
