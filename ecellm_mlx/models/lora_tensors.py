"""An adapter's shape and its tensor files.

mlx-lm's file has one rank and one scale. Layers may have their own (``LoraSpec.own``),
and ``converters.packing`` brings them together and apart again, exactly: the file pads
to the largest rank and multiplies lora_b, so that mlx-lm computes the same update, and
``ecellm.modules`` in ``adapter_config.json`` records what each layer has. Knows
nothing of models.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ecellm_mlx.device.backend import mx
from ecellm_mlx.errors import AdapterError, ModelError
from ecellm_mlx.models.adapter_files import WEIGHTS_FILE
from ecellm_mlx.models.fingerprint import verify_safetensors

from converters.adapter import LoraModule
from converters.errors import ConversionError
from converters.mlx_adapter import ORIGINALS
from converters.packing import Packed, pack, unpack

LEAVES = ("lora_a", "lora_b", "m")


@dataclass(frozen=True)
class Shape:
    """Of one layer's adapter: rank, and the factor on B·A with the alpha it came from."""

    rank: int
    scale: float
    alpha: float | None = None


@dataclass(frozen=True)
class LoraSpec:
    """Shape of an adapter. ``scale`` is the factor on B·A (alpha / rank, say).

    ``own`` holds the layers whose rank or scale is another one, by path.
    """

    rank: int
    scale: float
    dropout: float
    modules: tuple[str, ...]
    dora: bool = False
    own: Mapping[str, Shape] = field(default_factory=dict)

    def shape(self, module: str) -> Shape:
        """Rank and scale of the layer ``module``."""
        return self.own.get(module, Shape(self.rank, self.scale))


def write(
    folder: Path, tensors: dict[str, mx.array], spec: LoraSpec, alpha: float | None
) -> Packed:
    """Write the tensor files; the result has what ``adapter_config.json`` must say.

    Args:
        folder: where the files go.
        tensors: ``<layer>.lora_a``, ``lora_b`` and ``m`` in each layer's rank and scale.
        spec: of these tensors.
        alpha: that of layers without an own one, for the record.
    """
    modules = {}
    for name, (a, b, m) in _by_module(tensors).items():
        shape = spec.shape(name)
        own_alpha = shape.alpha if name in spec.own else alpha
        modules[name] = LoraModule(a, b, shape.scale, own_alpha, m)
    packed = pack(modules)
    mx.save_safetensors(str(folder / WEIGHTS_FILE), packed.tensors)
    if packed.originals:
        mx.save_safetensors(str(folder / ORIGINALS), packed.originals)
    return packed


def read(folder: Path, spec: LoraSpec, expected: dict[str, mx.array]) -> dict[str, mx.array]:
    """The adapter's tensors by name, each layer's in its own rank and scale.

    Args:
        folder: holds the files.
        spec: as its ``adapter_config.json`` says.
        expected: the tensors of the model; those and no others must be there.

    Raises:
        AdapterError: tensors are missing, unknown or of another shape; all are listed.
    """
    try:
        verify_safetensors(folder / WEIGHTS_FILE)
    except ModelError as error:
        raise AdapterError(
            error.what, got=error.got, expected=error.expected, cure=error.cure
        ) from None
    weights = mx.load(str(folder / WEIGHTS_FILE))
    assert isinstance(weights, dict)
    problems = [f"{name} is missing" for name in expected if name not in weights]
    problems += [f"{name} is unknown" for name in weights if name not in expected]
    for name, array in expected.items():
        shape = list(array.shape)
        if name.endswith("lora_a"):
            shape[1] = spec.rank
        elif name.endswith("lora_b"):
            shape[0] = spec.rank
        if name in weights and list(weights[name].shape) != shape:
            problems.append(
                f"{name} has shape {tuple(weights[name].shape)}, not {tuple(shape)}"
            )
    if not problems and spec.own:
        weights = _unpacked(folder, spec, weights)
        problems = [
            f"{name} has shape {tuple(weights[name].shape)}, not {tuple(array.shape)}"
            for name, array in expected.items()
            if weights[name].shape != array.shape
        ]
    if problems:
        raise AdapterError(
            f"the adapter {folder} does not fit the model: "
            + "; ".join(problems[:20])
            + (f"; and {len(problems) - 20} more" if len(problems) > 20 else ""),
            cure="use the base model that it was trained on",
        )
    return weights


def _unpacked(
    folder: Path, spec: LoraSpec, weights: dict[str, mx.array]
) -> dict[str, mx.array]:
    """Every layer's tensors in its own rank and scale."""
    originals: dict[str, mx.array] = {}
    if (folder / ORIGINALS).exists():
        loaded = mx.load(str(folder / ORIGINALS))
        assert isinstance(loaded, dict)
        originals = loaded
    own = {n: {"rank": s.rank, "scale": s.scale, "alpha": s.alpha} for n, s in spec.own.items()}
    stored = {
        name: LoraModule(a, b, spec.scale, m=m)
        for name, (a, b, m) in _by_module(weights).items()
    }
    try:
        modules = unpack(stored, own, originals)
    except ConversionError as error:
        raise AdapterError(f"the adapter {folder} cannot be used: {error}") from None
    found = {}
    for name, module in modules.items():
        for leaf, array in zip(LEAVES, (module.a, module.b, module.m), strict=True):
            if array is not None:
                found[f"{name}.{leaf}"] = array
    return found


def _by_module(
    tensors: dict[str, mx.array],
) -> dict[str, tuple[mx.array, mx.array, mx.array | None]]:
    """Path of a layer → its lora_a, lora_b and m."""
    names = dict.fromkeys(name.rsplit(".", 1)[0] for name in tensors)
    return {
        n: (tensors[f"{n}.lora_a"], tensors[f"{n}.lora_b"], tensors.get(f"{n}.m"))
        for n in names
    }
