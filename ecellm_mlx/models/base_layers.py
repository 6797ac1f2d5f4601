"""What converters must know of a base: its layers, read from the model itself.

mlx-lm's model says which layers there are. Whether Hugging Face's model has the same
ones under the same names is a fact, too. For the architectures in
``converters.architectures`` a test compares both; for others Hugging Face's model is
built without weights where PyTorch is installed, or else its names are read from a
checkpoint that Hugging Face wrote.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from ecellm_mlx.device.backend import mx, nn
from ecellm_mlx.device.dequantize import dequantized_weight
from ecellm_mlx.models import loading, lora, registry
from ecellm_mlx.models.fingerprint import weight_files

from converters import architectures
from converters.base import EMBEDDING, HEAD, BaseModel, Layer
from converters.header import read_header

Shapes = dict[str, tuple[int, ...]]


def base_model(name: str) -> BaseModel:
    """Describe the base ``name``, a registry name or a folder.

    Raises:
        ModelError: it is not on this machine, or mlx-lm does not know its architecture.
        ConversionError: nothing says how Hugging Face's model names its layers.
    """
    path = registry.resolve(name)
    network, config = loading.open_lazily(path)
    adaptable = lora.adaptable(network)
    layers = {module_name: _layer(module) for module_name, module in adaptable.items()}
    model_type = str(config["model_type"])
    tied = _tied(config)
    differing: frozenset[str] = frozenset()
    if architectures.get(model_type) is None:
        theirs = _hugging_face_shapes(path, config)
        differing = frozenset(
            n for n, layer in layers.items() if theirs.get(n) != (layer.out, layer.width)
        )
    return BaseModel(
        name=name,
        model_type=model_type,
        blocks=lora.blocks(network),
        modules={n: layer for n, layer in layers.items() if n not in differing},
        differing=differing,
        shares_embedding=EMBEDDING in layers and HEAD not in layers,
        tied_in_peft=tied,
        read=lambda tensor: _stored(adaptable, tensor),
        holds=lambda tensor, array: _holds(adaptable, tensor, array),
    )


def hugging_face_layers(config: dict[str, Any], path: Path | None = None) -> Shapes:
    """Linear and embedding layers of transformers' model, by path: (out, in) of the weight.

    Args:
        config: content of ``config.json``.
        path: where code and further files of the model are, if it has any.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    plain = {
        k: v for k, v in config.items() if k not in ("quantization", "quantization_config")
    }
    settings = AutoConfig.for_model(plain.pop("model_type"), **plain)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(settings)
    kinds = (torch.nn.Linear, torch.nn.Embedding)
    return {n: tuple(m.weight.shape) for n, m in model.named_modules() if isinstance(m, kinds)}


def _hugging_face_shapes(path: Path, config: dict[str, Any]) -> Shapes:
    if importlib.util.find_spec("torch") is not None:
        try:
            return hugging_face_layers(config)
        except (ValueError, KeyError, TypeError, AttributeError, ImportError):
            # transformers has no such model, or not of this configuration: ask the files.
            pass
    shapes: Shapes = {}
    for file in weight_files(path):
        header = read_header(file)
        if header.metadata.get("format") != "pt":
            architectures.with_known_names(str(config["model_type"]))
        shapes.update(
            {n.removesuffix(".weight"): tuple(e["shape"]) for n, e in header.tensors.items()}
        )
    return shapes


def _tied(config: dict[str, Any]) -> bool:
    stated = config.get("tie_word_embeddings")
    family = architectures.get(config["model_type"])
    if stated is None and family:
        stated = family.tied
    elif stated is None:
        from transformers import AutoConfig

        try:
            stated = AutoConfig.for_model(config["model_type"]).tie_word_embeddings
        except ValueError:
            stated = False
    return bool(stated)


def _layer(module: nn.Module) -> Layer:
    out, width = module.weight.shape
    if "scales" in module:
        width = width * 32 // module.bits
    embedding = isinstance(module, nn.Embedding | nn.QuantizedEmbedding)
    return Layer("embedding" if embedding else "linear", out, width)


def _stored(layers: dict[str, nn.Module], tensor: str) -> mx.array | None:
    """The tensor as the checkpoint has it; None if it is quantized or not there."""
    module_name, _, leaf = tensor.rpartition(".")
    module = layers.get(module_name)
    if module is None or leaf not in module or (leaf == "weight" and "scales" in module):
        return None
    array = module[leaf]
    assert isinstance(array, mx.array)
    return array


def _holds(layers: dict[str, nn.Module], tensor: str, array: mx.array) -> bool:
    """Whether the base's tensor is ``array``, but for rounding to a coarser type.

    A quantized weight may differ by what one step of its group is worth.
    """
    module_name, _, leaf = tensor.rpartition(".")
    module = layers.get(module_name)
    if module is None or leaf not in module:
        return False
    stored = _stored(layers, tensor)
    if stored is None:
        values = dequantized_weight(module).astype(mx.float32)
        if values.shape != array.shape:
            return False
        step = mx.repeat(mx.abs(module.scales.astype(mx.float32)), module.group_size, axis=1)
        return bool(mx.all(mx.abs(values - array.astype(mx.float32)) <= step).item())
    if stored.shape != array.shape:
        return False
    return any(
        bool(mx.array_equal(stored.astype(dtype), array.astype(dtype)).item())
        for dtype in {stored.dtype, array.dtype}
    )
