"""One model out of a base and an adapter, layer by layer.

``open_base`` maps a model without reading it, ``weights`` lists its tensors with the
adapter's updates in them, and each is computed only when a writer asks for it. The
update is taken from the loaded LoRA layers themselves, each with its own rank and
scale. Knows nothing of files that are written.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ecellm_mlx.device.backend import mx, nn, tree_flatten
from ecellm_mlx.device.dequantize import dequantized
from ecellm_mlx.errors import AdapterError, ModelError
from ecellm_mlx.models import loading, lora, registry
from ecellm_mlx.models.fingerprint import base_fingerprint, verify_safetensors, weight_files

from converters.gguf_adapter import Update
from converters.merged import Stored, Weight, fused
from converters.names import natural

WRAPPED = ("linear", "embedding")


@dataclass
class Opened:
    """A model whose weights are still on disk.

    Attributes:
        config: as mlx-lm reads it, rotary settings where every library finds them.
        stored_dtype: name of the base's float type.
        group_size: of a quantized base.
        tied: whether the output layer is the embedding; None where that is not known.
        updates: the adapter's matrices by layer.
        weights: what ``take`` has not handed over yet.
        ecellm: our own section of the adapter's configuration.
    """

    path: Path
    config: dict[str, Any]
    stored_dtype: str
    group_size: int | None
    tied: bool | None
    weights: list[Weight]
    updates: dict[str, Update]
    ecellm: dict[str, Any]

    def take(self) -> Iterator[Weight]:
        """Hand the weights over one by one, so that each can be forgotten when written."""
        while self.weights:
            yield self.weights.pop(0)

    @property
    def adapted(self) -> list[str]:
        """Paths of the layers that the adapter changes."""
        return [weight.module for weight in self.weights if weight.adapted]


def open_base(base: str | Path, adapter: Path | None = None) -> Opened:
    """Open a model, with an adapter on it if one is given.

    Args:
        base: registry name or folder.
        adapter: folder in mlx-lm's adapter format.

    Raises:
        ModelError, AdapterError: missing or damaged files, or an adapter of another base.
    """
    path = registry.resolve(str(base))
    for file in weight_files(path):
        verify_safetensors(file)
    model, config = loading.open_lazily(path)
    ecellm: dict[str, Any] = {}
    if adapter is not None:
        ecellm = lora.load(model, adapter, base=base_fingerprint(path)).ecellm
    weights = list(_weights(model))
    _check_complete(model, weights)
    quantization = config.get("quantization") or {}
    names = {weight.name for weight in weights}
    return Opened(
        path,
        config,
        _stored_dtype(model),
        quantization.get("group_size"),
        "lm_head.weight" not in names if "model.embed_tokens.weight" in names else None,
        weights,
        _updates(model),
        ecellm,
    )


def _weights(model: nn.Module) -> Iterator[Weight]:
    """All tensors in model order; those of a wrapped layer under the wrapper's path."""
    modules = dict(model.named_modules())
    inside: set[str] = set()
    for path in sorted(modules, key=natural):
        module = modules[path]
        if path in inside:
            continue
        if "lora_a" in module:
            key = next(key for key in WRAPPED if key in module)
            inside.add(f"{path}.{key}")
            yield from _layer(path, module[key], module, embedding=key == "embedding")
        else:
            yield from _layer(path, module, None)


def _updates(model: nn.Module) -> dict[str, Update]:
    layers = {path: m for path, m in model.named_modules() if "lora_a" in m}
    return {
        path: Update(
            layers[path].lora_a,
            layers[path].lora_b,
            float(layers[path].scale),
            "m" in layers[path],
        )
        for path in sorted(layers, key=natural)
    }


def _layer(
    path: str, layer: nn.Module, adapter: nn.Module | None, *, embedding: bool = False
) -> Iterator[Weight]:
    arrays = {
        key: value
        for key, value in layer.items()
        if isinstance(value, mx.array) and not key.startswith("_")
    }
    stored = None
    if "scales" in arrays:
        parts = {k: arrays.pop(k) for k in ("weight", "scales", "biases") if k in arrays}
        stored = Stored(parts, layer.bits, layer.group_size, layer.mode)
        arrays = {"weight": parts["weight"], **arrays}
    for key, value in arrays.items():
        compute: Callable[[], mx.array] = partial(_identity, value)
        shape = tuple(value.shape)
        main = key == "weight"
        if main and stored:
            compute = partial(
                dequantized,
                **stored.arrays,
                group_size=stored.group_size,
                bits=stored.bits,
                mode=stored.mode,
            )
            shape = (shape[0], shape[1] * 32 // stored.bits)
        if main and adapter is not None:
            compute = partial(
                _fused, compute, adapter.lora_a, adapter.lora_b, adapter.scale,
                adapter.get("m"), embedding,
            )  # fmt: skip
        yield Weight(
            f"{path}.{key}" if path else key,
            shape,
            compute,
            adapted=main and adapter is not None,
            quantizable=main and (stored is not None or hasattr(layer, "to_quantized")),
            stored=stored if main and adapter is None else None,
        )


def _identity(value: mx.array) -> mx.array:
    return value


def _fused(
    weight: Callable[[], mx.array],
    a: mx.array,
    b: mx.array,
    scale: float,
    magnitude: mx.array | None,
    embedding: bool,
) -> mx.array:
    return fused(weight(), a, b, scale, magnitude, embedding=embedding)


def _check_complete(model: nn.Module, weights: list[Weight]) -> None:
    """Refuse an architecture that keeps tensors where they would be lost."""
    names = {weight.name for weight in weights}
    lost = []
    for name, _ in tree_flatten(model.parameters()):
        path, _, key = name.rpartition(".")
        if key in (*lora.LEAVES, "scales", "biases"):
            continue
        parent, _, last = path.rpartition(".")
        if name not in names and not (last in WRAPPED and f"{parent}.{key}" in names):
            lost.append(name)
    if lost:
        raise ModelError(
            f"the architecture keeps {len(lost)} tensors where they cannot be fused",
            got=", ".join(lost[:5]),
            cure="use mlx_lm.fuse for it",
        )


def _stored_dtype(model: nn.Module) -> str:
    """The float type of the base: of its matrices, or of the scales of quantized ones."""
    for name, array in tree_flatten(model.parameters()):
        leaf = name.rsplit(".", 1)[-1]
        if leaf in ("weight", "scales") and mx.issubdtype(array.dtype, mx.floating):
            return str(array.dtype).rpartition(".")[2]
    raise AdapterError("the base has no weights in floats")
