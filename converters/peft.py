"""LoRA adapters between mlx-lm's format and Hugging Face PEFT's.

PEFT stores lora_A (r, in) and lora_B (out, r) and scales by alpha / r (rsLoRA:
alpha / √r); mlx-lm stores their transposes and the scale itself. So A = aᵀ, B = bᵀ
and alpha = scale · r: numbers are moved, never computed anew, in the dtype that
they have. DoRA's magnitude of a linear layer is the same vector in both.

What only one side can say travels along, so that the way back is the identity: an MLX
adapter's configuration in the metadata of the PEFT tensors, where it is lost with the
tensors that it describes if PEFT saves anew; a PEFT adapter's configuration in the
``ecellm`` section.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.core as mx

from converters import architectures, peft_config, peft_layers, phi_layout
from converters.adapter import Adapter, LoraModule, alpha_of
from converters.architectures import Layout
from converters.base import EMBEDDING, HEAD, BaseModel, check_fit
from converters.errors import ConversionError
from converters.files import read_json
from converters.folders import new_folder
from converters.mlx_adapter import check_targets, read_mlx, write_mlx
from converters.names import ADAPTER_CONFIG as CONFIG
from converters.packing import same_bits
from converters.peft_files import PeftAdapter, read_peft, write_peft

# Two ways to compute one scale in float64 differ by less; different scales by far more.
SAME_SCALE = 1e-12
FLOATS = {"float32": mx.float32, "float16": mx.float16, "bfloat16": mx.bfloat16}


def to_peft(
    source: Path,
    target: Path,
    *,
    model_type: str,
    base_name: str | None = None,
    base: BaseModel | None = None,
    layout: Layout | None = None,
) -> Path:
    """Write the MLX adapter in ``source`` as a PEFT adapter at ``target``.

    Args:
        source: folder in mlx-lm's adapter format.
        target: folder that does not exist yet.
        model_type: architecture of the base, from its ``config.json``.
        base_name: what PEFT shall load as its base: a hub name or a folder. None keeps
            the name that a PEFT adapter came with.
        base: the base itself, if it is at hand. Without it, names are trusted for the
            families in ``converters.architectures`` only.
        layout: how Phi's layers are named; None means as the adapter came, or natively.

    Raises:
        ConversionError: the adapter is damaged, does not fit, or cannot be represented.
    """
    adapter = read_mlx(source)
    origin = _object(adapter.ecellm.get("peft"), source)
    layout = layout or ("legacy" if origin.get("layout") == "legacy" else "native")
    if not architectures.has_layout(model_type, layout):
        raise ConversionError(
            f"only Phi has a legacy layout, and {source} is for {model_type}."
        )
    if base is None:
        architectures.with_known_names(model_type)
    else:
        check_fit(base, adapter.modules, source)
        check_targets(source, adapter, base)
    moved = peft_layers.to_hugging_face(adapter.modules, base, layout)
    config = _restored(origin, adapter, moved, base, layout)
    if config is None:
        config = peft_config.compose(
            {name: module.rank for name, module in moved.modules.items()},
            {name: alpha_of(module, adapter.rslora) for name, module in moved.modules.items()},
            layers=None if base is None else peft_layers.layers_in_peft(base, layout),
            rslora=adapter.rslora,
            dora=adapter.dora,
            dropout=adapter.dropout,
            base=base_name or "",
        )
    elif base_name is not None:
        config = {**config, "base_model_name_or_path": base_name}
    if not config.get("base_model_name_or_path"):
        raise ConversionError(f"{source} does not name its base model; give it with --base.")
    recorded: dict[str, Any] = {"mlx": read_json(source / CONFIG)}
    if moved.blocks:
        recorded["blocks"] = moved.blocks
    with new_folder(target) as folder:
        write_peft(
            folder,
            config,
            moved.modules,
            embeddings=moved.embeddings,
            copies=_copies(origin, base, layout),
            recorded=recorded,
        )
    return target


def from_peft(
    source: Path,
    target: Path,
    *,
    base: BaseModel,
    ecellm: dict[str, Any],
    warn: Callable[[str], None] = lambda _: None,
) -> Path:
    """Write the PEFT adapter in ``source`` as an MLX adapter at ``target``.

    Args:
        source: folder with ``adapter_config.json`` and the tensors.
        target: folder that does not exist yet.
        base: the base that the adapter was made for.
        ecellm: our own section of the configuration (base and its fingerprint).
        warn: receives a sentence on settings that are kept but not understood.

    Raises:
        ConversionError: the adapter is damaged, does not fit, or uses what mlx-lm
            cannot represent.
    """
    stored = read_peft(source)
    if stored.settings.unknown:
        warn(
            f"{source} has the settings {', '.join(stored.settings.unknown)}, which are kept "
            "but not understood; compare logits with `ecellm adapters verify`"
        )
    layout: Layout = "legacy" if phi_layout.is_legacy(stored.modules) else "native"
    if not architectures.has_layout(base.model_type, layout):
        raise ConversionError(
            f"{source} was made for another architecture than {base.model_type}: it has the "
            "names of Phi's old layout; give the right base with --base."
        )
    peft_layers.check_targets(stored.modules, stored.settings, base, layout, source)
    _check_copies(stored, base, source)
    blocks = _object(stored.recorded.get("blocks"), source)
    modules = peft_layers.from_hugging_face(stored.modules, base, layout, blocks, source)
    before = _object(stored.recorded.get("mlx"), source)
    earlier = _object(before.get("ecellm"), source)
    section = {
        **earlier,
        "peft": {
            "config": dict(stored.settings.raw),
            "layout": layout,
            "copies": {name: _dtype(array) for name, array in stored.copies.items()},
        },
        **ecellm,
    }
    if before:
        # The configuration that PEFT has is ours; nothing of it is news on the way back.
        section.pop("peft")
        if "peft" in earlier:
            section["peft"] = earlier["peft"]
    adapter = Adapter(
        _as_recorded(modules, before), stored.settings.dropout, stored.settings.rslora, section
    )
    with new_folder(target) as folder:
        write_mlx(folder, adapter, base.blocks, before)
    return target


def _restored(
    origin: Mapping[str, Any],
    adapter: Adapter,
    moved: peft_layers.Moved,
    base: BaseModel | None,
    layout: Layout,
) -> dict[str, Any] | None:
    """The configuration that the adapter came with, if it still says what it did."""
    config = origin.get("config")
    if not isinstance(config, dict) or origin.get("layout") != layout:
        return None
    try:
        settings = peft_config.parse(Path(CONFIG), config)
        if base is not None:
            peft_layers.check_targets(moved.modules, settings, base, layout, CONFIG)
    except ConversionError:
        # Not what it was: it is described anew.
        return None
    same = settings.dora == adapter.dora and all(
        settings.rank_of(name) == module.rank and settings.scale_of(name) == module.scale
        for name, module in moved.modules.items()
    )
    return config if same else None


def _as_recorded(
    modules: Mapping[str, LoraModule], before: Mapping[str, Any]
) -> dict[str, LoraModule]:
    """Modules with the scale and alpha that they had in MLX before ``to_peft``.

    Division does not reach every scale, so the one that PEFT computes may be a unit in
    the last place off. A record that says anything else is out of date.
    """
    try:
        ecellm = before.get("ecellm") or {}
        own = ecellm.get("modules") or {}
        common = {
            "rank": before["lora_parameters"]["rank"],
            "scale": before["lora_parameters"]["scale"],
            "alpha": ecellm.get("alpha"),
        }
        result = {}
        for name, module in modules.items():
            record = own.get(name, common)
            scale = float(record["scale"])
            fits = record["rank"] == module.rank
            if fits and abs(scale - module.scale) <= SAME_SCALE * module.scale:
                module = replace(module, scale=scale, alpha=record.get("alpha"))
            result[name] = module
        return result
    except (KeyError, TypeError, ValueError, AttributeError):
        return dict(modules)


def _in_base(tensor: str, base: BaseModel) -> str:
    """mlx-lm's name of a tensor of Hugging Face's model."""
    module, _, leaf = tensor.rpartition(".")
    native = (phi_layout.native_names(module) or (module,))[0]
    if native == HEAD and base.shares_embedding:
        native = EMBEDDING
    return f"{native}.{leaf}"


def _check_copies(stored: PeftAdapter, base: BaseModel, source: object) -> None:
    """Prove that PEFT's copies of frozen layers are the base's own weights."""
    changed = []
    for name, copy in stored.copies.items():
        if not base.holds(_in_base(name, base), copy):
            changed.append(f"{name} {tuple(copy.shape)}")
    if changed:
        raise ConversionError(
            f"{source} carries layers that are not those of {base.name}: {', '.join(changed)}; "
            "mlx-lm's adapters cannot replace a layer, so use the base that it was made for."
        )


def _copies(
    origin: Mapping[str, Any], base: BaseModel | None, layout: Layout
) -> dict[str, mx.array]:
    """PEFT's copies of frozen layers, taken from the base again where that is exact."""
    if base is None or origin.get("layout") != layout:
        return {}
    copies = {}
    for name, dtype in _object(origin.get("copies"), "the record of copies").items():
        if dtype not in FLOATS:
            raise ConversionError(f"the copy of {name} has the unknown type {dtype!r}.")
        stored = base.read(_in_base(name, base))
        if stored is None:
            continue
        copy = stored.astype(FLOATS[dtype])
        if same_bits(copy.astype(stored.dtype), stored) or copy.itemsize < stored.itemsize:
            copies[name] = copy
    return copies


def _object(value: Any, source: object) -> dict[str, Any]:
    """A part of what was recorded; empty if there is none."""
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ConversionError(f"{source} has a damaged record ({value!r:.60}); copy it again.")
    return value


def _dtype(array: mx.array) -> str:
    return str(array.dtype).rpartition(".")[2]
