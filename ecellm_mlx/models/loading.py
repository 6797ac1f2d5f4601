"""Load a model folder for this machine, with an adapter on it if one is given.

Takes any folder that mlx-lm can load, in MLX or Hugging Face layout. Files are
checked before MLX maps them; the device makes the model ready to compute.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ecellm_mlx import device
from ecellm_mlx.data.prompts import Frame, frame_for
from ecellm_mlx.device.backend import mx, nn
from ecellm_mlx.device.dequantize import dequantize
from ecellm_mlx.errors import ModelError
from ecellm_mlx.models import adapter_files, lora, registry
from ecellm_mlx.models.config import for_mlx_lm, read_config
from ecellm_mlx.models.fingerprint import base_fingerprint, verify_safetensors, weight_files
from ecellm_mlx.models.tokenizer import load_tokenizer

from converters import architectures

QUANTIZE_GROUP_SIZE = 32


@dataclass
class LoadedModel:
    """A base model, with or without an adapter on it, ready to compute on any thread.

    Attributes:
        model: an mlx-lm model; calling it on tokens (B, T) gives logits (B, T, vocab).
        tokenizer: a Hugging Face tokenizer with its own default special tokens.
        config: the content of ``config.json``.
        path: the folder it came from.
        frame: the prompt frame that this kind of model was trained with.
        stop_ids: token ids that end an answer.
    """

    model: nn.Module
    tokenizer: Any
    config: dict[str, Any]
    path: Path
    frame: Frame
    stop_ids: frozenset[int]

    @property
    def fingerprint(self) -> str:
        """Identity of the base, which adapters are bound to."""
        return base_fingerprint(self.path)

    def use_adapter(self, adapter: str | Path | None) -> None:
        """Put an adapter in the place of the present one; None leaves the base alone.

        Args:
            adapter: an adapter's folder, or a run.

        Raises:
            AdapterError: there is none, it is damaged or was trained on another base; the
                present one is still there then.
        """
        folder = None if adapter is None else adapter_files.folder_of(adapter)
        lora.swap(self.model, folder, base=self.fingerprint)


def load(
    model: str | Path,
    adapter: str | Path | None = None,
    *,
    bits: int = 0,
    exact: bool = False,
    warn: Callable[[str], None] = lambda _: None,
) -> LoadedModel:
    """Load a model by registry name or folder, and put an adapter on it.

    Args:
        model: a name of ``registry.REGISTRY``, an installed name, or a folder.
        adapter: an adapter's folder, or a run; it must have been trained on this base.
        bits: quantize the linear layers to 4 or 8 bits first (QLoRA); 0 keeps them.
        exact: compute in float32 on any device, quantized weights as the floats that they
            stand for: to compare with another program.
        warn: receives one sentence where the result is slower than the user may expect.

    Raises:
        ModelError: missing or damaged files, or an architecture mlx-lm does not know.
        AdapterError: no such adapter, or one that is damaged or of another base.
    """
    # What is missing is told before the model is read, which may take a while.
    path = registry.resolve(str(model))
    folder = None if adapter is None else adapter_files.folder_of(adapter)
    config = read_config(path)
    for file in weight_files(path):
        verify_safetensors(file)
    network, config = open_lazily(path)
    if bits:
        quantize(network, bits)
    if exact:
        dequantize(network, mx.float32)
        network.set_dtype(mx.float32)
    else:
        device.current().prepare(network, warn)
    _compute(network)
    network.eval()
    tokenizer = load_tokenizer(path)
    template = getattr(tokenizer, "chat_template", None)
    base = LoadedModel(
        network,
        tokenizer,
        config,
        path,
        frame_for(str(config["model_type"]), template if isinstance(template, str) else None),
        _stop_ids(config, tokenizer),
    )
    if folder:
        base.use_adapter(folder)
    return base


def quantize(model: nn.Module, bits: int) -> None:
    """Quantize the linear layers of ``model`` in place (affine, group size 32).

    Layers that are quantized already, and those whose width is no multiple of the
    group, stay as they are.
    """

    def eligible(_path: str, module: nn.Module) -> bool:
        return (
            isinstance(module, nn.Linear) and module.weight.shape[-1] % QUANTIZE_GROUP_SIZE == 0
        )

    nn.quantize(model, group_size=QUANTIZE_GROUP_SIZE, bits=bits, class_predicate=eligible)


def open_lazily(path: Path) -> tuple[nn.Module, dict[str, Any]]:
    """The model in ``path`` in its stored dtypes, and its configuration as mlx-lm reads it.

    Weights are read from disk only when something is computed from them.

    Raises:
        ModelError: an architecture that mlx-lm does not know, or damaged files.
    """
    from mlx_lm.utils import load_model  # noqa: TID251

    config = read_config(path)
    family, special = architectures.get(config["model_type"]), {}
    if family and family.classes:
        module = importlib.import_module(f"ecellm_mlx.models.{family.classes}")
        special["get_model_classes"] = module.classes
    try:
        return load_model(path, lazy=True, model_config=for_mlx_lm(config), **special)
    except (ValueError, KeyError, TypeError, RuntimeError, FileNotFoundError) as error:
        raise ModelError(
            f"the model in {path} cannot be loaded",
            got=" ".join(str(error).split())[:300],
            cure="check that mlx-lm supports it, or pull it again",
        ) from error


def _compute(model: nn.Module) -> None:
    """Have every array of ``model``: only the thread that began one could finish it.

    Some are no parameters, such as the frequencies of Llama 3's rotary embedding.
    """
    arrays = [value for module in model.modules() for value in module.values()]
    mx.eval([value for value in arrays if isinstance(value, mx.array)])


def _stop_ids(config: dict[str, Any], tokenizer: Any) -> frozenset[int]:
    stated = config.get("eos_token_id")
    ids = set(stated) if isinstance(stated, list) else {stated}
    ids.add(tokenizer.eos_token_id)
    return frozenset(i for i in ids if isinstance(i, int))
