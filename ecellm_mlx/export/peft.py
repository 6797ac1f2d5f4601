"""Hand adapters over: what the converters need to know of base models."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from ecellm_mlx.device import backend  # noqa: F401 - loads a fast BLAS before converters do
from ecellm_mlx.errors import AdapterError, ModelError
from ecellm_mlx.models import registry
from ecellm_mlx.models.adapter_files import CONFIG_FILE, folder_of
from ecellm_mlx.models.base_layers import base_model
from ecellm_mlx.models.fingerprint import base_fingerprint

from converters import peft
from converters.architectures import Layout
from converters.base import BaseModel


def to_peft(
    adapter: str | Path, out: Path, *, base: str | None = None, layout: Layout | None = None
) -> Path:
    """Convert to PEFT. The base is the adapter's own, by its hub name, unless given.

    Args:
        adapter: a folder, or a run.
        out: folder to write.
        base: registry name or folder of the base. What PEFT shall load is its hub name.
        layout: how Phi's layers are named; None means as the adapter came, or natively.

    Raises:
        AdapterError: the adapter does not say what base it belongs to.
        ModelError: ``base`` is not on this machine.
        ConversionError: it cannot be represented.
    """
    folder = folder_of(adapter)
    config = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
    if "peft_type" in config:
        raise AdapterError(
            f"{folder} is a PEFT adapter already",
            cure="give an adapter in MLX format, or a run",
        )
    section = config.get("ecellm") or {}
    recorded = section.get("base") or {}
    name = base or recorded.get("name")
    if not name:
        raise AdapterError(f"{folder} does not name its base model", cure="give it with --base")
    described = base_model(base) if base else _base_if_here(name)
    model_type = described.model_type if described else recorded.get("model_type")
    if model_type is None:
        raise AdapterError(
            f"{folder} does not say what kind of model {name} is", cure="give it with --base"
        )
    card = registry.REGISTRY.get(name)
    # An adapter that came from PEFT names its base as PEFT did, if it did.
    original = (section.get("peft") or {}).get("config") or {}
    keep = base is None and bool(original.get("base_model_name_or_path"))
    return peft.to_peft(
        folder,
        out,
        model_type=model_type,
        base_name=None if keep else (card.repo if card else name),
        base=described,
        layout=layout,
    )


def from_peft(
    adapter: Path, out: Path, *, base: str, warn: Callable[[str], None] = lambda _: None
) -> Path:
    """Convert from PEFT.

    Args:
        adapter: a PEFT adapter folder.
        out: folder to write.
        base: registry name or folder of the model that the adapter was made for.
        warn: receives a sentence on settings that are kept but not understood.

    Raises:
        ModelError: ``base`` is not on this machine.
        ConversionError: the adapter does not fit, or cannot be represented.
    """
    described = base_model(base)
    section = {
        "name": base,
        "model_type": described.model_type,
        "fingerprint": base_fingerprint(registry.resolve(base)),
        "layers": described.blocks.count,
    }
    return peft.from_peft(adapter, out, base=described, ecellm={"base": section}, warn=warn)


def _base_if_here(name: str) -> BaseModel | None:
    try:
        return base_model(name)
    except ModelError:
        return None
