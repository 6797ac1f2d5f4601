"""Adapters in mlx-lm's format: their one reader and writer.

A folder holds ``adapters.safetensors`` (``<module>.lora_a|lora_b|m``) and
``adapter_config.json``, so that ``mlx_lm.generate --adapter-path`` takes it as it is.
Ours has an ``ecellm`` section, in which ``modules`` records ranks and scales that differ
between modules, and sometimes a third file with originals: see ``converters.packing``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import mlx.core as mx

from converters.adapter import LEAVES, Adapter, LoraModule, Shape
from converters.base import BaseModel, Blocks
from converters.errors import ConversionError
from converters.files import read_json, write_json
from converters.names import ADAPTER_CONFIG as CONFIG
from converters.names import MLX_WEIGHTS as WEIGHTS
from converters.names import natural
from converters.packing import pack, unpack
from converters.tensors import read_tensors

ORIGINALS = "adapters.originals.safetensors"
# Where the rank stands in the shapes (in, r) and (r, out).
RANK_AXIS = {"lora_a": 1, "lora_b": 0}
# As many faults are listed in one sentence.
LISTED = 20


@dataclass(frozen=True)
class MlxConfig:
    """Content of ``adapter_config.json``.

    Attributes:
        rank: of all tensors in the file.
        scale: the factor on a·b that mlx-lm computes with.
        dropout: probability while training.
        dora: whether the modules have magnitudes.
        keys: paths of modules, whole or within a block; None means all.
        num_layers: of so many last blocks; all if it is not positive.
        own: path → rank and scale of a module where they are not the file's.
        ecellm: our own section.
    """

    rank: int
    scale: float
    dropout: float
    dora: bool
    keys: tuple[str, ...] | None
    num_layers: int
    own: Mapping[str, Shape]
    ecellm: dict[str, Any]

    def named(self, modules: Iterable[str], blocks: Blocks) -> tuple[str, ...]:
        """Those of ``modules`` that mlx-lm would adapt."""
        first = max(0, blocks.count - self.num_layers) if self.num_layers > 0 else 0
        chosen = []
        for name in modules:
            number, path = blocks.place(name)
            inside = number is not None and number >= first
            if self.keys is None:
                adapted = inside
            else:
                adapted = name in self.keys or (inside and path in self.keys)
            if adapted:
                chosen.append(name)
        return tuple(chosen)


def read_config(folder: Path) -> MlxConfig:
    """Read ``adapter_config.json``.

    Raises:
        ConversionError: it is missing or damaged, or it is no LoRA or DoRA.
    """
    path = folder / CONFIG
    config = read_json(path)
    if "peft_type" in config:
        raise ConversionError(
            f"{folder} is a PEFT adapter; convert it with `ecellm adapters from-peft` first."
        )
    kind = config.get("fine_tune_type", "lora")
    if kind not in ("lora", "dora"):
        raise ConversionError(
            f"{folder} holds fine_tune_type {kind!r}, not an adapter; only lora and dora can "
            "be used."
        )
    ecellm = config.get("ecellm", {})
    if not isinstance(ecellm, dict):
        raise ConversionError(f"{path}: its section ecellm must be an object.")
    own = ecellm.get("modules", {})
    if not isinstance(own, dict):
        raise ConversionError(f"{path}: ecellm.modules must be an object.")
    try:
        values = config["lora_parameters"]
        keys = values.get("keys")
        return MlxConfig(
            rank=int(values["rank"]),
            scale=float(values["scale"]),
            dropout=float(values.get("dropout", 0.0)),
            dora=kind == "dora",
            keys=None if keys is None else tuple(map(str, keys)),
            num_layers=int(config.get("num_layers", -1)),
            own={name: _shape(path, name, record) for name, record in own.items()},
            ecellm=ecellm,
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ConversionError(
            f"{path} lacks a LoRA setting: {error!r}; copy the adapter again."
        ) from None


def read_mlx(folder: Path, expected: Mapping[str, Sequence[int]] | None = None) -> Adapter:
    """Read an adapter; modules come with their own ranks and scales.

    Args:
        folder: holds the files.
        expected: the tensors that a model needs, ``<module>.<leaf>`` → shape: those and
            no others must be there. None takes the modules that the file has.

    Raises:
        ConversionError: files are missing or damaged, it is no LoRA or DoRA, or tensors
            are missing, unknown or of another shape; all of them are listed.
    """
    config = read_config(folder)
    modules = _stored(folder, config, expected)
    originals = read_tensors(folder / ORIGINALS) if (folder / ORIGINALS).exists() else {}
    alpha = config.ecellm.get("alpha")
    if isinstance(alpha, int | float):
        modules = {name: replace(module, alpha=alpha) for name, module in modules.items()}
    try:
        modules = unpack(modules, config.own, originals)
    except ConversionError as error:
        raise ConversionError(f"{folder}: {error}") from None
    if expected is not None:
        _refuse(folder, _misshapen(tensors_of(modules), expected), fits_model=True)
    rslora = bool(config.ecellm.get("rslora", False))
    return Adapter(modules, config.dropout, rslora, config.ecellm)


def read_stored(folder: Path) -> dict[str, LoraModule]:
    """The modules as mlx-lm sees them: all with the file's one rank and scale.

    Raises:
        ConversionError: as for ``read_mlx``.
    """
    return _stored(folder, read_config(folder), None)


def tensors_of(modules: Mapping[str, LoraModule]) -> dict[str, mx.array]:
    """All tensors of ``modules``: ``<module>.<leaf>`` → array."""
    return {
        f"{name}.{leaf}": array
        for name, module in modules.items()
        for leaf, array in module.tensors.items()
    }


def write_mlx(
    folder: Path, adapter: Adapter, blocks: Blocks, before: Mapping[str, Any] | None = None
) -> None:
    """Write an adapter into an existing folder.

    Args:
        folder: where the files go.
        adapter: its ``ecellm`` section is written with ``alpha``, ``rslora`` and
            ``modules`` brought up to date.
        blocks: of the base.
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
    if packed.own:
        ecellm["modules"] = {name: _record(shape) for name, shape in packed.own.items()}
    mx.save_safetensors(str(folder / WEIGHTS), packed.tensors)
    if packed.originals:
        mx.save_safetensors(str(folder / ORIGINALS), packed.originals)
    config = {
        **(before or {}),
        "fine_tune_type": "dora" if adapter.dora else "lora",
        "num_layers": blocks.count,
        "lora_parameters": {
            **(before or {}).get("lora_parameters", {}),
            "rank": packed.rank,
            "scale": packed.scale,
            "dropout": adapter.dropout,
            "keys": _keys(adapter.modules, blocks),
        },
        "ecellm": ecellm,
    }
    if before and _names_the_same(before, adapter.modules, blocks):
        config["num_layers"] = before["num_layers"]
        config["lora_parameters"] |= {"keys": before["lora_parameters"].get("keys")}
        if "keys" not in before["lora_parameters"]:
            del config["lora_parameters"]["keys"]
    write_json(folder / CONFIG, config)


def check_targets(folder: Path, adapter: Adapter, base: BaseModel) -> None:
    """Prove that the tensors are of exactly the layers that mlx-lm would adapt.

    Raises:
        ConversionError: layers without tensors (mlx-lm would leave them at random), or
            tensors without a layer; all are listed.
    """
    named = read_config(folder).named(base.modules, base.blocks)
    problems = [f"{name} is named and has no tensors" for name in sorted(named, key=natural)
                if name not in adapter.modules]  # fmt: skip
    problems += [f"{name} has tensors and is not named" for name in adapter.modules
                 if name not in named]  # fmt: skip
    if problems:
        raise ConversionError(
            f"the tensors and the keys of {folder} do not agree: {'; '.join(problems)}; save "
            "or copy it again."
        )


def _shape(path: Path, name: str, record: Any) -> Shape:
    """What ``ecellm.modules`` says of one module."""
    try:
        rank, scale = int(record["rank"]), float(record["scale"])
        alpha = None if record.get("alpha") is None else record["alpha"] * 1
        sound = rank > 0 and math.isfinite(scale) and scale > 0
    except (KeyError, TypeError, ValueError, AttributeError):
        sound = False
    if not sound:
        raise ConversionError(
            f"{path}: the record of {name} makes no sense ({record!r:.80}); copy the adapter "
            "again."
        )
    return Shape(rank, scale, alpha)


def _record(shape: Shape) -> dict[str, float]:
    record = {"rank": shape.rank, "scale": shape.scale}
    return record if shape.alpha is None else {**record, "alpha": shape.alpha}


def _keys(modules: Iterable[str], blocks: Blocks) -> list[str]:
    """mlx-lm's ``keys``: relative to a block where every block has them, else paths."""
    names = sorted(modules, key=natural)
    relative: dict[str, int] = {}
    absolute = []
    for name in names:
        number, path = blocks.place(name)
        if number is None:
            absolute.append(name)
        else:
            relative[path] = relative.get(path, 0) + 1
    if all(count == blocks.count for count in relative.values()):
        return sorted(relative) + absolute
    return names


def _names_the_same(
    before: Mapping[str, Any], modules: Mapping[str, LoraModule], blocks: Blocks
) -> bool:
    """Whether a configuration of earlier still names exactly ``modules``."""
    values = before.get("lora_parameters")
    count = before.get("num_layers")
    if not isinstance(values, dict) or not isinstance(count, int):
        return False
    keys = values.get("keys")
    config = MlxConfig(0, 1.0, 0.0, False, keys, count, {}, {})
    return set(config.named(modules, blocks)) == set(modules)


def _stored(
    folder: Path, config: MlxConfig, expected: Mapping[str, Sequence[int]] | None
) -> dict[str, LoraModule]:
    """Every module of the file, in the file's one rank and scale."""
    tensors = read_tensors(folder / WEIGHTS)
    names = list(expected) if expected is not None else _needed(tensors, dora=config.dora)
    problems = [f"{name} is missing" for name in names if name not in tensors]
    problems += [f"{name} is unknown" for name in tensors if name not in set(names)]
    if not tensors:
        problems.append("it holds no tensor")
    problems += _misshapen(tensors, expected or {}, rank=config.rank)
    _refuse(folder, problems, fits_model=expected is not None)
    modules = dict.fromkeys(name.rpartition(".")[0] for name in names)
    return {
        name: LoraModule(
            tensors[f"{name}.lora_a"],
            tensors[f"{name}.lora_b"],
            config.scale,
            m=tensors.get(f"{name}.m"),
        )
        for name in modules
    }


def _needed(tensors: Iterable[str], *, dora: bool) -> list[str]:
    """The tensors that a file must hold that holds these, in the order of the model."""
    leaves = LEAVES if dora else LEAVES[:2]
    parts = [name.rpartition(".") for name in tensors]
    modules = {module for module, _, leaf in parts if module and leaf in leaves}
    return [f"{module}.{leaf}" for module in sorted(modules, key=natural) for leaf in leaves]


def _misshapen(
    tensors: Mapping[str, mx.array],
    expected: Mapping[str, Sequence[int]],
    *,
    rank: int | None = None,
) -> list[str]:
    """What has another shape than ``expected``, or than a file of this rank has."""
    problems = []
    for name, array in tensors.items():
        wanted = tuple(expected.get(name, array.shape))
        axis = RANK_AXIS.get(name.rpartition(".")[2])
        if rank is not None and axis is not None:
            rows, columns = (*wanted, 0, 0)[:2]
            wanted = (rows, rank) if axis == 1 else (rank, columns)
        if tuple(array.shape) != wanted:
            problems.append(f"{name} has shape {tuple(array.shape)}, not {wanted}")
    return problems


def _refuse(folder: Path, problems: Sequence[str], *, fits_model: bool) -> None:
    if not problems:
        return
    what, cure = (
        ("does not fit the model", "use the base model that it was trained on")
        if fits_model
        else ("is inconsistent", "save or copy it again")
    )
    more = f"; and {len(problems) - LISTED} more" if len(problems) > LISTED else ""
    raise ConversionError(
        f"the adapter {folder} {what}: {'; '.join(problems[:LISTED])}{more}", cure=cure
    )
