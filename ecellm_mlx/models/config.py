"""``config.json`` of a model folder, and what mlx-lm must find in it.

transformers 5 saves rotary settings and sliding windows under new keys, and Microsoft's
own code for Phi has other keys throughout. mlx-lm reads the older and native ones, and
would fall back to its defaults without a word. Loads no mlx.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ecellm_mlx.errors import ModelError

from converters import architectures
from converters.phi_config import native_config

FULL, SLIDING = "full_attention", "sliding_attention"


def read_config(path: Path) -> dict[str, Any]:
    """``config.json`` of a model folder, with Phi's old keys translated.

    Raises:
        ModelError: it is missing, damaged, or has no ``model_type``.
    """
    file = path / "config.json"
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelError(
            f"{path} is not a model folder: it has no config.json", cure="check --model"
        ) from None
    except (OSError, ValueError) as error:
        raise ModelError(
            f"{file} cannot be read", got=str(error), cure="pull or copy the model again"
        ) from None
    if not isinstance(config, dict) or "model_type" not in config:
        raise ModelError(
            f"{file} names no model_type", cure="use a folder in MLX or Hugging Face layout"
        )
    return native_config(config)


def for_mlx_lm(config: Mapping[str, Any]) -> dict[str, Any]:
    """``config.json`` with what mlx-lm reads beside what is there.

    Raises:
        ValueError: mlx-lm cannot compute windows on the layers that have them.
    """
    return {**config, **_rotary(config), **_window(config)}


def _rotary(config: Mapping[str, Any]) -> dict[str, Any]:
    nested = config.get("rope_parameters")
    if not isinstance(nested, dict):
        return {}
    settings: dict[str, Any] = {}
    if isinstance(local := nested.get(SLIDING), dict):
        settings["rope_local_base_freq"] = local.get("rope_theta", 10_000.0)
    if isinstance(whole := nested.get(FULL), dict):
        # One kind of layer each, of which those that see everything give the plain keys.
        nested = whole
    for key in ("rope_theta", "partial_rotary_factor"):
        if key in nested:
            settings[key] = nested[key]
    if nested.get("rope_type", "default") != "default":
        settings["rope_scaling"] = {k: v for k, v in nested.items() if k != "rope_theta"}
    return {key: value for key, value in settings.items() if key not in config}


def _window(config: Mapping[str, Any]) -> dict[str, Any]:
    """The period of layers that see everything, where mlx-lm wants that and no list."""
    family, kinds = architectures.get(config.get("model_type")), config.get("layer_types")
    if family is None or not family.pattern or not isinstance(kinds, list):
        return {}
    period = kinds.index(FULL) + 1 if FULL in kinds else len(kinds) + 1
    regular = [FULL if (i + 1) % period == 0 else SLIDING for i in range(len(kinds))]
    if kinds != regular or period > len(kinds):
        raise ValueError(
            f"mlx-lm's {family.title} sees everything in every n-th layer, and not in the "
            f"layers that layer_types name"
        )
    return {"sliding_window_pattern": period}
