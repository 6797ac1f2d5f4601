"""LoRA adapters between mlx-lm's format and Hugging Face PEFT's.

PEFT stores lora_A (r, in) and lora_B (out, r) and scales by alpha / r (rsLoRA:
alpha / √r); mlx-lm stores their transposes and the scale itself. So A = aᵀ, B = bᵀ
and alpha = scale · r: numbers are moved, never computed anew, in the dtype that
they have. DoRA's magnitude is the same vector in both.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx

from converters import names
from converters.errors import ConversionError
from converters.folders import new_folder, read_json, write_json

MLX_WEIGHTS, PEFT_WEIGHTS = "adapters.safetensors", "adapter_model.safetensors"
CONFIG = "adapter_config.json"
MAGNITUDE = "lora_magnitude_vector"
# Settings of PEFT that change what an adapter means and that mlx-lm has no word for.
REFUSED_SETTINGS = (
    "lora_bias",
    "layer_replication",
    "target_parameters",
    "trainable_token_indices",
    "modules_to_save",
    "fan_in_fan_out",
    "rank_pattern",
    "alpha_pattern",
    "layers_pattern",
    "exclude_modules",
)


@dataclass(frozen=True)
class Adapter:
    """An adapter in neither format: module path → (a (in, r), b (r, out), m or None)."""

    rank: int
    scale: float
    dropout: float
    modules: dict[str, tuple[mx.array, mx.array, mx.array | None]]
    ecellm: dict[str, Any]
    rslora: bool = False

    @property
    def dora(self) -> bool:
        """Whether the modules carry magnitudes."""
        return any(m is not None for _, _, m in self.modules.values())

    @property
    def alpha(self) -> float:
        """PEFT's lora_alpha: the recorded one where it gives exactly this scale."""
        divisor = math.sqrt(self.rank) if self.rslora else self.rank
        recorded = self.ecellm.get("alpha")
        if recorded is not None and recorded / divisor == self.scale:
            alpha = float(recorded)
        else:
            alpha = self.scale * divisor
        return int(alpha) if float(alpha).is_integer() else alpha


def to_peft(source: Path, target: Path, *, base: str, model_type: str) -> Path:
    """Write the MLX adapter in ``source`` as a PEFT adapter at ``target``.

    Args:
        source: folder in mlx-lm's adapter format.
        target: folder that does not exist yet.
        base: what PEFT shall load as its base: a hub name or a folder.
        model_type: architecture of the base, from its ``config.json``.

    Raises:
        ConversionError: the adapter is damaged or cannot be represented.
    """
    names.check_architecture(model_type)
    adapter = read_mlx(source)
    tensors: dict[str, mx.array] = {}
    if embeddings := [m for m in adapter.modules if m.endswith("embed_tokens")]:
        raise ConversionError(
            f"{source} adapts {', '.join(embeddings)}; adapters on embeddings cannot be "
            "converted, so train without them."
        )
    for module, (a, b, m) in adapter.modules.items():
        prefix = names.to_peft_module(module)
        tensors[f"{prefix}.lora_A.weight"] = mx.contiguous(a.T)
        tensors[f"{prefix}.lora_B.weight"] = mx.contiguous(b.T)
        if m is not None:
            tensors[f"{prefix}.{MAGNITUDE}"] = m
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": adapter.rank,
        "lora_alpha": adapter.alpha,
        "lora_dropout": adapter.dropout,
        "target_modules": sorted(_target_names(adapter)),
        "use_rslora": adapter.rslora,
        "use_dora": adapter.dora,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "modules_to_save": None,
    }
    with new_folder(target) as folder:
        mx.save_safetensors(str(folder / PEFT_WEIGHTS), tensors, metadata={"format": "pt"})
        write_json(folder / CONFIG, config)
    return target


def from_peft(source: Path, target: Path, *, layers: int, ecellm: dict[str, Any]) -> Path:
    """Write the PEFT adapter in ``source`` as an MLX adapter at ``target``.

    Args:
        source: folder with ``adapter_model.safetensors``.
        target: folder that does not exist yet.
        layers: number of blocks of the base.
        ecellm: our own section of the configuration (base and its fingerprint).

    Raises:
        ConversionError: the adapter is damaged or uses what mlx-lm cannot represent.
    """
    adapter = read_peft(source)
    tensors: dict[str, mx.array] = {}
    for module, (a, b, m) in adapter.modules.items():
        tensors[f"{module}.lora_a"] = a
        tensors[f"{module}.lora_b"] = b
        if m is not None:
            tensors[f"{module}.m"] = m
    with new_folder(target) as folder:
        mx.save_safetensors(str(folder / MLX_WEIGHTS), tensors)
        write_json(
            folder / CONFIG,
            {
                "fine_tune_type": "dora" if adapter.dora else "lora",
                "num_layers": layers,
                "lora_parameters": {
                    "rank": adapter.rank,
                    "scale": adapter.scale,
                    "dropout": adapter.dropout,
                    "keys": list(adapter.modules),
                },
                "ecellm": {"alpha": adapter.alpha, "rslora": adapter.rslora, **ecellm},
            },
        )
    return target


def read_mlx(folder: Path) -> Adapter:
    """Read an adapter in mlx-lm's format.

    Raises:
        ConversionError: files are missing or damaged, or it is no LoRA or DoRA.
    """
    config = read_json(folder / CONFIG)
    if config.get("fine_tune_type", "lora") not in ("lora", "dora"):
        raise ConversionError(
            f"{folder} holds fine_tune_type {config['fine_tune_type']!r}, not an adapter; "
            "only lora and dora can be converted."
        )
    try:
        values = config["lora_parameters"]
        rank, scale = int(values["rank"]), float(values["scale"])
        dropout = float(values.get("dropout", 0.0))
    except (KeyError, TypeError, ValueError) as error:
        raise ConversionError(f"{folder / CONFIG} lacks a LoRA setting: {error!r}.") from None
    parts: dict[str, dict[str, mx.array]] = {}
    for name, array in read_tensors(folder / MLX_WEIGHTS).items():
        module, _, leaf = name.rpartition(".")
        if leaf not in ("lora_a", "lora_b", "m"):
            raise ConversionError(f"{folder / MLX_WEIGHTS} holds the unknown tensor {name!r}.")
        parts.setdefault(module, {})[leaf] = array
    ecellm = config.get("ecellm", {})
    modules = _complete(folder, parts, ("lora_a", "lora_b", "m"), rank, rank_axis_of_a=1)
    return Adapter(rank, scale, dropout, modules, ecellm, bool(ecellm.get("rslora", False)))


def read_peft(folder: Path) -> Adapter:
    """Read a PEFT LoRA adapter.

    Raises:
        ConversionError: files are missing or damaged, or a setting that mlx-lm
            cannot represent is in use; it is named.
    """
    config = read_json(folder / CONFIG)
    if config.get("peft_type") != "LORA":
        raise ConversionError(
            f"{folder} is a PEFT adapter of type {config.get('peft_type')!r}; only LORA can be "
            "converted."
        )
    used = [key for key in REFUSED_SETTINGS if config.get(key)]
    if config.get("bias", "none") != "none":
        used.append("bias")
    if used:
        raise ConversionError(
            f"{folder} uses {', '.join(used)}, which mlx-lm's adapters cannot represent."
        )
    rank, alpha = int(config["r"]), float(config["lora_alpha"])
    rslora = bool(config.get("use_rslora", False))
    parts: dict[str, dict[str, mx.array]] = {}
    for name, array in read_tensors(folder / PEFT_WEIGHTS).items():
        for leaf in ("lora_A.weight", "lora_B.weight", f"{MAGNITUDE}.weight", MAGNITUDE):
            if name.endswith("." + leaf):
                module = names.from_peft_module(name.removesuffix("." + leaf))
                key = MAGNITUDE if leaf.startswith(MAGNITUDE) else leaf
                parts.setdefault(module, {})[key] = array
                break
        else:
            raise ConversionError(f"{folder / PEFT_WEIGHTS} holds the unknown tensor {name!r}.")
    modules = _complete(
        folder, parts, ("lora_A.weight", "lora_B.weight", MAGNITUDE), rank, rank_axis_of_a=0
    )
    transposed = {
        module: (mx.contiguous(a.T), mx.contiguous(b.T), m)
        for module, (a, b, m) in modules.items()
    }
    scale = alpha / (math.sqrt(rank) if rslora else rank)
    dropout = float(config.get("lora_dropout", 0.0))
    return Adapter(rank, scale, dropout, transposed, {"alpha": alpha}, rslora)


def read_tensors(path: Path) -> dict[str, mx.array]:
    """Tensors of a safetensors file whose header was checked against its size.

    Raises:
        ConversionError: the file is missing, truncated or damaged.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as handle:
            handle.keys()
        arrays = mx.load(str(path))
    except FileNotFoundError:
        raise ConversionError(f"{path} is missing; check the folder.") from None
    except (SafetensorError, OSError, RuntimeError, ValueError) as error:
        raise ConversionError(f"{path} is damaged ({error}); copy it again.") from None
    assert isinstance(arrays, dict)
    return arrays


def _complete(
    folder: Path,
    parts: dict[str, dict[str, mx.array]],
    leaves: tuple[str, str, str],
    rank: int,
    *,
    rank_axis_of_a: int,
) -> dict[str, tuple[mx.array, mx.array, mx.array | None]]:
    """Both matrices of each module, checked to have the rank of the configuration."""
    problems = []
    found = {}
    for module, tensors in sorted(parts.items(), key=lambda item: _natural(item[0])):
        a, b, m = (tensors.get(leaf) for leaf in leaves)
        if a is None or b is None:
            problems.append(f"{module} lacks {leaves[0] if a is None else leaves[1]}")
            continue
        ranks = (a.shape[rank_axis_of_a], b.shape[1 - rank_axis_of_a])
        if ranks != (rank, rank):
            problems.append(f"{module} has rank {ranks[0]}, not {rank}")
        found[module] = (a, b, m)
    if not parts:
        problems.append("it holds no tensor")
    if problems:
        raise ConversionError(f"the adapter {folder} is inconsistent: {'; '.join(problems)}.")
    return found


def _target_names(adapter: Adapter) -> set[str]:
    """Names that make PEFT adapt exactly these modules.

    The last part of the path where every block has that module, else whole paths.
    """
    layers = adapter.ecellm.get("base", {}).get("layers")
    counts: dict[str, int] = {}
    for module in adapter.modules:
        leaf = module.rsplit(".", 1)[-1]
        counts[leaf] = counts.get(leaf, 0) + (".layers." in module)
    return {
        leaf if counts[leaf] in (0, layers) else module
        for module in adapter.modules
        for leaf in (module.rsplit(".", 1)[-1],)
    }


def _natural(name: str) -> list[tuple[int, int | str]]:
    return [(0, int(part)) if part.isdigit() else (1, part) for part in name.split(".")]
