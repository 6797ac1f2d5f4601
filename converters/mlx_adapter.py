"""Read and write adapters in mlx-lm's format.

A folder holds ``adapters.safetensors`` (``<module>.lora_a|lora_b|m``) and
``adapter_config.json``. Ours has an ``ecellm`` section, in which ``modules`` records
ranks and scales that differ between modules, and sometimes a third file with
originals: see ``converters.packing``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.core as mx

from converters.adapter import Adapter, LoraModule, check_dora
from converters.base import BaseModel
from converters.errors import ConversionError
from converters.folders import read_json, write_json
from converters.names import natural
from converters.packing import pack, unpack
from converters.tensors import read_tensors

WEIGHTS, CONFIG = "adapters.safetensors", "adapter_config.json"
ORIGINALS = "adapters.originals.safetensors"
LEAVES = ("lora_a", "lora_b", "m")


def read_mlx(folder: Path) -> Adapter:
    """Read an adapter; modules come with their own ranks and scales.

    Raises:
        ConversionError: files are missing or damaged, or it is no LoRA or DoRA.
    """
    config = read_json(folder / CONFIG)
    stored = read_stored(folder)
    ecellm = config.get("ecellm", {})
    if not isinstance(ecellm, dict):
        raise ConversionError(f"{folder / CONFIG}: its section ecellm must be an object.")
    originals = read_tensors(folder / ORIGINALS) if (folder / ORIGINALS).exists() else {}
    alpha = ecellm.get("alpha")
    if isinstance(alpha, int | float):
        stored = {name: replace(module, alpha=alpha) for name, module in stored.items()}
    own = ecellm.get("modules", {})
    if not isinstance(own, dict) or not all(isinstance(item, dict) for item in own.values()):
        raise ConversionError(f"{folder / CONFIG}: ecellm.modules must hold objects.")
    try:
        modules = unpack(stored, own, originals)
    except ConversionError as error:
        raise ConversionError(f"{folder}: {error}") from None
    dropout = float(config["lora_parameters"].get("dropout", 0.0))
    return Adapter(modules, dropout, bool(ecellm.get("rslora", False)), ecellm)


def read_stored(folder: Path) -> dict[str, LoraModule]:
    """The modules as mlx-lm sees them: all with the file's one rank and scale.

    Raises:
        ConversionError: files are missing or damaged, or it is no LoRA or DoRA.
    """
    config = read_json(folder / CONFIG)
    if "peft_type" in config:
        raise ConversionError(
            f"{folder} is a PEFT adapter; convert it with `ecellm adapters from-peft` first."
        )
    kind = config.get("fine_tune_type", "lora")
    if kind not in ("lora", "dora"):
        raise ConversionError(
            f"{folder} holds fine_tune_type {kind!r}, not an adapter; only lora and dora can "
            "be converted."
        )
    try:
        values = config["lora_parameters"]
        rank, scale = int(values["rank"]), float(values["scale"])
        float(values.get("dropout", 0.0))
    except (KeyError, TypeError, ValueError) as error:
        raise ConversionError(f"{folder / CONFIG} lacks a LoRA setting: {error!r}.") from None
    return _modules(folder, rank, scale, dora=kind == "dora")


def write_mlx(
    folder: Path, adapter: Adapter, *, layers: int, before: Mapping[str, Any] | None = None
) -> None:
    """Write an adapter into an existing folder.

    Args:
        folder: where the files go.
        adapter: its ``ecellm`` section is written with ``alpha``, ``rslora`` and
            ``modules`` brought up to date.
        layers: number of blocks of the base, mlx-lm's ``num_layers``.
        before: a configuration that it had; where that still names the same modules, it
            names them in the same way.
    """
    packed = pack(adapter.modules)
    ecellm = {key: value for key, value in adapter.ecellm.items() if key != "modules"}
    if adapter.rslora or "rslora" in ecellm:
        ecellm["rslora"] = adapter.rslora
    alphas = {module.alpha for module in adapter.modules.values()}
    if len(alphas) == 1 and None not in alphas:
        ecellm["alpha"] = alphas.pop()
    else:
        ecellm.pop("alpha", None)
    if packed.own:
        ecellm["modules"] = packed.own
    mx.save_safetensors(str(folder / WEIGHTS), packed.tensors, metadata={"format": "mlx"})
    if packed.originals:
        mx.save_safetensors(str(folder / ORIGINALS), packed.originals)
    keys: dict[str, Any] = {"keys": list(adapter.modules)}
    if before and _named(before, adapter.modules, layers) == set(adapter.modules):
        values = before["lora_parameters"]
        keys = {"keys": values["keys"]} if "keys" in values else {}
        layers = before["num_layers"]
    write_json(
        folder / CONFIG,
        {
            **(before or {}),
            "fine_tune_type": "dora" if adapter.dora else "lora",
            "num_layers": layers,
            "lora_parameters": {
                **(before or {}).get("lora_parameters", {}),
                "rank": packed.rank,
                "scale": packed.scale,
                "dropout": adapter.dropout,
                **keys,
            },
            "ecellm": ecellm,
        },
    )


def check_targets(folder: Path, adapter: Adapter, base: BaseModel) -> None:
    """Prove that the tensors are of exactly the layers that mlx-lm would adapt.

    Raises:
        ConversionError: layers without tensors (mlx-lm would leave them at random), or
            tensors without a layer; all are listed.
    """
    named = _named(read_json(folder / CONFIG), base.modules, base.layers)
    problems = [f"{name} is named and has no tensors" for name in sorted(named, key=natural)
                if name not in adapter.modules]  # fmt: skip
    problems += [f"{name} has tensors and is not named" for name in adapter.modules
                 if name not in named]  # fmt: skip
    if problems:
        raise ConversionError(
            f"the tensors and the keys of {folder} do not agree: {'; '.join(problems)}; save "
            "or copy it again."
        )


def _named(config: Mapping[str, Any], modules: Iterable[str], layers: int) -> set[str]:
    """Those of ``modules`` that mlx-lm would adapt for this configuration.

    A key is a whole path, or a path within a block; no keys means every layer of the
    last ``num_layers`` blocks. Both -1 and 0 mean all blocks.
    """
    keys = config.get("lora_parameters", {}).get("keys")
    count = config.get("num_layers", -1)
    first = max(0, layers - count) if isinstance(count, int) and count > 0 else 0
    found = set()
    for name in modules:
        block = re.match(r".*?\.layers\.(\d+)\.(.+)", name)
        inside = block is not None and int(block[1]) >= first
        if (keys is None and inside) or (
            keys is not None
            and (name in keys or (inside and block is not None and block[2] in keys))
        ):
            found.add(name)
    return found


def _modules(folder: Path, rank: int, scale: float, *, dora: bool) -> dict[str, LoraModule]:
    """Every module of the file, checked to be whole and of the configured rank."""
    parts: dict[str, dict[str, mx.array]] = {}
    problems = []
    for name, array in read_tensors(folder / WEIGHTS).items():
        module, _, leaf = name.rpartition(".")
        if leaf not in LEAVES or not module:
            problems.append(f"{name} is unknown")
        parts.setdefault(module, {})[leaf] = array
    found = {}
    for module in sorted(parts, key=natural):
        a, b, m = (parts[module].get(leaf) for leaf in LEAVES)
        lacking = [leaf for leaf, x in (("lora_a", a), ("lora_b", b)) if x is None]
        if dora and m is None:
            lacking.append("m")
        problems += [f"{module}.{leaf} is missing" for leaf in lacking]
        if a is None or b is None:
            continue
        if a.ndim != 2 or a.shape[1] != rank:
            problems.append(f"{module}.lora_a has shape {a.shape}, not (…, {rank})")
        if b.ndim != 2 or b.shape[0] != rank:
            problems.append(f"{module}.lora_b has shape {b.shape}, not ({rank}, …)")
        found[module] = LoraModule(a, b, scale, m=m)
    if not parts:
        problems.append("it holds no tensor")
    if problems:
        raise ConversionError(f"the adapter {folder} is inconsistent: {'; '.join(problems)}.")
    check_dora(found)
    return found
