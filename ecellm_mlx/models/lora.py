"""LoRA on a loaded model: attach, save, load.

The layers and the files are mlx-lm's, so ``mlx_lm.generate --adapter-path`` takes
our adapters unchanged. Equation: y = W x + scale · B A dropout(x), with lora_a of
shape (in, r) and lora_b of shape (r, out). What mlx-lm leaves to chance is checked
here: a target that matches nothing, a tensor that is missing, another base.

Layers may have ranks and scales of their own: see ``ecellm_mlx.models.lora_tensors``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ecellm_mlx.device.backend import mx, nn, tree_flatten, tree_unflatten
from ecellm_mlx.errors import AdapterError, RecipeError
from ecellm_mlx.files import write_json
from ecellm_mlx.models import lora_tensors
from ecellm_mlx.models.adapter_files import CONFIG_FILE
from ecellm_mlx.models.lora_tensors import LEAVES, LoraSpec, Shape

__all__ = [
    "ALL_LINEAR",
    "LEAVES",
    "AdapterInfo",
    "LoraSpec",
    "Shape",
    "adaptable",
    "attach",
    "check_base",
    "detach",
    "load",
    "parameters",
    "pattern_key",
    "read_info",
    "resolve_targets",
    "restore",
    "save",
]

ALL_LINEAR = "all-linear"


@dataclass(frozen=True)
class AdapterInfo:
    """Content of ``adapter_config.json``: the spec and our own section."""

    spec: LoraSpec
    ecellm: dict[str, Any] = field(default_factory=dict)


def adaptable(model: nn.Module) -> dict[str, nn.Module]:
    """Every linear and embedding layer by its path, in model order."""
    kinds = (nn.Linear, nn.QuantizedLinear, nn.Embedding, nn.QuantizedEmbedding)
    found = {n: m for n, m in model.named_modules() if isinstance(m, kinds)}
    return dict(sorted(found.items(), key=lambda item: _natural(item[0])))


def resolve_targets(model: nn.Module, targets: list[str]) -> tuple[str, ...]:
    """Paths of the layers that ``targets`` name.

    A target matches a path that equals it or ends with ``.target``, as in PEFT;
    ``all-linear`` is every linear layer of the blocks, without the output head.

    Raises:
        RecipeError: some targets match nothing; lists all of them, and the names
            that exist.
    """
    layers = adaptable(model)
    chosen: set[str] = set()
    missing = []
    for target in targets:
        if target == ALL_LINEAR:
            linear = (nn.Linear, nn.QuantizedLinear)
            hits = [n for n, m in layers.items() if isinstance(m, linear) and ".layers." in n]
        else:
            hits = [n for n in layers if n == target or n.endswith("." + target)]
        if not hits:
            missing.append(target)
        chosen.update(hits)
    if missing:
        names = sorted({name.rsplit(".", 1)[-1] for name in layers})
        raise RecipeError(
            f"targets: {', '.join(map(repr, missing))} name no layer of this model",
            expected=", ".join([*names, ALL_LINEAR]),
            cure="correct targets",
        )
    return tuple(name for name in layers if name in chosen)


def pattern_key(patterns: Mapping[str, Any], module: str) -> str | None:
    """The first of ``patterns`` that names ``module``, as PEFT matches them.

    A pattern is a name or a regular expression for the end of a path, from a dot on:
    ``q_proj``, ``layers.0.mlp.up_proj``, ``[kv]_proj``.
    """
    return next((key for key in patterns if re.match(rf"(.*\.)?({key})$", module)), None)


def attach(
    model: nn.Module, spec: LoraSpec, *, seed: int | None = None, init: str = "peft"
) -> None:
    """Put adapters on ``spec.modules``, freeze everything else.

    The initial weights of a linear layer are the same in PEFT (Kaiming uniform with
    a = √5) and mlx-lm: A uniform within ±1/√in, B zero. Those of an embedding differ:
    PEFT has A (vocabulary, r) zero and B (r, dims) standard normal, as ``nn.Embedding``
    starts; mlx-lm has A uniform within ±1/√vocabulary and B zero.

    Args:
        model: a base model; changed in place.
        spec: what to attach.
        seed: seeds the initial weights.
        init: ``peft`` or ``mlx-lm``.
    """
    from mlx_lm.tuner.dora import DoRAEmbedding, DoRALinear  # noqa: TID251
    from mlx_lm.tuner.lora import LoRAEmbedding, LoRALinear  # noqa: TID251

    if seed is not None:
        mx.random.seed(seed)
    layers = adaptable(model)
    model.freeze()
    adapters: list[tuple[str, nn.Module]] = []
    for name in spec.modules:
        layer = layers[name]
        if isinstance(layer, nn.Linear | nn.QuantizedLinear):
            kind = DoRALinear if spec.dora else LoRALinear
        else:
            kind = DoRAEmbedding if spec.dora else LoRAEmbedding
        shape = spec.shape(name)
        adapter = kind.from_base(layer, r=shape.rank, dropout=spec.dropout, scale=shape.scale)
        if init == "peft" and "embedding" in adapter:
            adapter.lora_a = mx.zeros_like(adapter.lora_a)
            adapter.lora_b = mx.random.normal(adapter.lora_b.shape)
        adapters.append((name, adapter))
    model.update_modules(tree_unflatten(adapters))
    mx.eval(model.trainable_parameters())


def detach(model: nn.Module) -> None:
    """Remove all adapters; the base is as it was before ``attach``."""
    bases: list[tuple[str, nn.Module]] = []
    for name, module in model.named_modules():
        if "lora_a" in module:
            bases.append(
                (name, module["linear"] if "linear" in module else module["embedding"])
            )
    model.update_modules(tree_unflatten(bases))


def parameters(model: nn.Module) -> dict[str, mx.array]:
    """The adapter's tensors by name, as they go into ``adapters.safetensors``."""
    return {
        name: array
        for name, array in tree_flatten(model.trainable_parameters())
        if name.rsplit(".", 1)[-1] in LEAVES
    }


def save(folder: Path, model: nn.Module, spec: LoraSpec, ecellm: dict[str, Any]) -> None:
    """Write the adapter of ``model`` into an existing folder in mlx-lm's format."""
    packed = lora_tensors.write(folder, parameters(model), spec, ecellm.get("alpha"))
    if packed.own:
        ecellm = {**ecellm, "modules": packed.own}
    write_json(
        folder / CONFIG_FILE,
        {
            "fine_tune_type": "dora" if spec.dora else "lora",
            "num_layers": len(model.layers),
            "lora_parameters": {
                "rank": packed.rank,
                "scale": packed.scale,
                "dropout": spec.dropout,
                "keys": _keys(model, spec.modules),
            },
            "ecellm": ecellm,
        },
    )


def read_info(folder: Path, model: nn.Module) -> AdapterInfo:
    """Read ``adapter_config.json`` and resolve its keys against ``model``.

    Raises:
        AdapterError: the file is damaged or of an unknown kind.
    """
    path = folder / CONFIG_FILE
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        kind = config.get("fine_tune_type", "lora")
        values = config["lora_parameters"]
        ecellm = config.get("ecellm", {})
        own = {
            name: Shape(int(value["rank"]), float(value["scale"]), value.get("alpha"))
            for name, value in ecellm.get("modules", {}).items()
        }
        spec = LoraSpec(
            int(values["rank"]),
            float(values["scale"]),
            float(values["dropout"]),
            _modules(model, values.get("keys"), int(config["num_layers"])),
            dora=kind == "dora",
            own=own,
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        cause = f"{type(error).__name__}: {error}"
        if isinstance(error, KeyError) and "peft_type" in config:
            raise AdapterError(
                f"{folder} is a PEFT adapter",
                cure="convert it with `ecellm adapters from-peft`",
            ) from None
        raise AdapterError(f"{path} cannot be used", got=cause, cure="copy it again") from None
    if kind not in ("lora", "dora"):
        raise AdapterError(
            f"{path}: fine_tune_type {kind!r} is not an adapter", expected="lora or dora"
        )
    return AdapterInfo(spec, ecellm)


def load(model: nn.Module, folder: Path, *, base: str) -> AdapterInfo:
    """Attach the adapter in ``folder`` to ``model``, every tensor of it.

    Args:
        model: the base model; changed in place.
        folder: an adapter in mlx-lm's format.
        base: fingerprint of the base; an adapter made by us for another is refused.

    Raises:
        AdapterError: wrong base, or tensors that are missing, unknown or of another
            shape; all of them are listed.
    """
    info = read_info(folder, model)
    check_base(folder, info.ecellm, base)
    attach(model, info.spec)
    expected = parameters(model)
    try:
        weights = lora_tensors.read(folder, info.spec, expected)
    except AdapterError:
        detach(model)
        raise
    dtype = next(iter(expected.values())).dtype
    model.load_weights([(n, w.astype(dtype)) for n, w in weights.items()], strict=False)
    model.eval()
    # Not the base: it may be far larger than memory while it is fused.
    mx.eval(parameters(model))
    return info


def restore(model: nn.Module, folder: Path) -> None:
    """Put the tensors in ``folder`` back into the adapter that ``model`` has, bit for bit.

    Raises:
        AdapterError: they are of another adapter.
    """
    spec = read_info(folder, model).spec
    weights = lora_tensors.read(folder, spec, parameters(model))
    model.load_weights(list(weights.items()), strict=False)


def swap(model: nn.Module, folder: Path | None, *, base: str) -> AdapterInfo | None:
    """Put the adapter in ``folder`` in the place of the present one; the base stays.

    Args:
        model: the base model, with or without an adapter; changed in place.
        folder: an adapter in mlx-lm's format; None leaves the base alone.
        base: fingerprint of the base.

    Raises:
        AdapterError: as ``load`` does; the present adapter is still there then.
    """
    present = [(name, module) for name, module in model.named_modules() if "lora_a" in module]
    detach(model)
    if folder is None:
        return None
    try:
        return load(model, folder, base=base)
    except AdapterError:
        detach(model)
        model.update_modules(tree_unflatten(present))
        raise


def check_base(folder: Path, ecellm: dict[str, Any], base: str) -> None:
    """Refuse the adapter in ``folder`` if it names another base than ``base``.

    Raises:
        AdapterError: it does.
    """
    trained_on = ecellm.get("base", {})
    if trained_on.get("fingerprint", base) != base:
        raise AdapterError(
            f"the adapter {folder} was trained on another base model",
            expected=str(trained_on.get("name", "unknown")),
            cure="give that model with --model",
        )


def _keys(model: nn.Module, modules: tuple[str, ...]) -> list[str]:
    """mlx-lm's ``keys``: relative to a block where every block has them, else paths."""
    prefix = _block_prefix(model)
    relative: dict[str, int] = {}
    absolute = []
    for name in modules:
        if name.startswith(prefix):
            key = name[len(prefix) :].split(".", 1)[1]
            relative[key] = relative.get(key, 0) + 1
        else:
            absolute.append(name)
    if all(count == len(model.layers) for count in relative.values()):
        return sorted(relative) + absolute
    return list(modules)


def _modules(model: nn.Module, keys: list[str] | None, num_layers: int) -> tuple[str, ...]:
    """The paths that mlx-lm would adapt for these keys (all layers when None)."""
    prefix, count = _block_prefix(model), len(model.layers)
    first = 0 if num_layers <= 0 else max(0, count - num_layers)
    chosen = []
    for name in adaptable(model):
        inside = name.startswith(prefix)
        index, _, key = name[len(prefix) :].partition(".") if inside else ("0", "", "")
        in_range = inside and int(index) >= first
        if name in (keys or []) or (in_range and (keys is None or key in keys)):
            chosen.append(name)
    return tuple(chosen)


def _block_prefix(model: nn.Module) -> str:
    """Path of the list of blocks with a trailing dot: ``model.layers.`` in most."""
    first = model.layers[0]
    for name, module in model.named_modules():
        if module is first:
            return name.rsplit(".", 1)[0] + "."
    raise AdapterError("this architecture keeps its blocks where adapters cannot name them")


def _natural(name: str) -> list[tuple[int, int | str]]:
    return [(0, int(part)) if part.isdigit() else (1, part) for part in name.split(".")]
