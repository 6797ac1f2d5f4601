"""Prove on the user's own files that two adapters are the same update.

Without PyTorch the algebra is checked: for every module the update ΔW of shape
(out, in) is computed from each file by its own format's rule, in float64.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import mlx.core as mx
import numpy as np

from converters.errors import ConversionError
from converters.folders import read_json
from converters.peft import CONFIG, PEFT_WEIGHTS, read_mlx, read_peft, read_tensors


@dataclass(frozen=True)
class Verification:
    """``max_abs_error`` is over all entries of all modules' ΔW."""

    modules: int
    max_abs_error: float
    bit_identical: bool


def compare(mlx_folder: Path, peft_folder: Path) -> Verification:
    """Compare an MLX adapter with a PEFT adapter, tensor by tensor.

    Raises:
        ConversionError: they adapt different modules or are damaged.
    """
    ours, theirs = read_mlx(mlx_folder), read_peft(peft_folder)
    difference = sorted(set(ours.modules) ^ set(theirs.modules))
    if difference:
        raise ConversionError(
            f"{mlx_folder} and {peft_folder} adapt different modules: "
            f"{', '.join(difference[:10])}{' …' if len(difference) > 10 else ''}."
        )
    config = read_json(peft_folder / CONFIG)
    rank, alpha = config["r"], config["lora_alpha"]
    peft_scale = alpha / (rank**0.5 if config.get("use_rslora") else rank)
    stored = read_tensors(peft_folder / PEFT_WEIGHTS)
    worst, identical = 0.0, ours.scale == peft_scale
    for module, (a, b, m) in ours.modules.items():
        name = f"base_model.model.{module}"
        peft_a, peft_b = stored[f"{name}.lora_A.weight"], stored[f"{name}.lora_B.weight"]
        mlx_update = ours.scale * (_wide(a) @ _wide(b)).T
        peft_update = peft_scale * (_wide(peft_b) @ _wide(peft_a))
        if mlx_update.shape != peft_update.shape:
            raise ConversionError(
                f"{module}: ΔW is {mlx_update.shape} in {mlx_folder} and {peft_update.shape} "
                f"in {peft_folder}."
            )
        worst = max(worst, float(np.abs(mlx_update - peft_update).max()))
        identical = identical and all(
            bool(mx.array_equal(x, y)) for x, y in ((a.T, peft_a), (b.T, peft_b))
        )
        magnitude = theirs.modules[module][2]
        if m is not None and magnitude is not None:
            worst = max(worst, float(np.abs(_wide(m) - _wide(magnitude)).max()))
        elif (m is None) != (magnitude is None):
            raise ConversionError(f"{module} has a magnitude in one adapter only.")
    return Verification(len(ours.modules), worst, identical)


def _wide(array: mx.array) -> np.ndarray:
    return np.array(array.astype(mx.float32)).astype(np.float64)
