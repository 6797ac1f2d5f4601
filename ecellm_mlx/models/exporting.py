"""Hand adapters over: what the converters need to know of base models."""

from __future__ import annotations

import json
from pathlib import Path

from ecellm_mlx import backend  # noqa: F401 - loads a fast BLAS before converters do
from ecellm_mlx.errors import AdapterError
from ecellm_mlx.models import loading, registry
from ecellm_mlx.models.adapter_files import CONFIG_FILE, folder_of
from ecellm_mlx.models.fingerprint import base_fingerprint

from converters import peft


def to_peft(adapter: str | Path, out: Path, *, base: str | None = None) -> Path:
    """Convert to PEFT. The base is the adapter's own, by its hub name, unless given.

    Raises:
        AdapterError: the adapter does not say what base it belongs to.
        ConversionError: it cannot be represented.
    """
    folder = folder_of(adapter)
    config = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
    recorded = config.get("ecellm", {}).get("base", {})
    name = base or recorded.get("name")
    if not name:
        raise AdapterError(f"{folder} does not name its base model", cure="give it with --base")
    model_type = recorded.get("model_type")
    if model_type is None:
        model_type = loading.read_config(registry.resolve(name))["model_type"]
    card = registry.REGISTRY.get(name)
    return peft.to_peft(folder, out, base=card.repo if card else name, model_type=model_type)


def from_peft(adapter: Path, out: Path, *, base: str) -> Path:
    """Convert from PEFT for the model ``base``.

    Raises:
        ConversionError: the adapter cannot be represented.
    """
    path = registry.resolve(base)
    config = loading.read_config(path)
    return peft.from_peft(
        adapter,
        out,
        layers=int(config["num_hidden_layers"]),
        ecellm={
            "base": {
                "name": base,
                "model_type": config["model_type"],
                "fingerprint": base_fingerprint(path),
                "layers": int(config["num_hidden_layers"]),
            }
        },
    )
