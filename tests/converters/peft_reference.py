"""Tiny bases, adapters for them that PEFT itself makes, and the logits of both sides."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np

from ecellm_mlx.device.backend import mx
from ecellm_mlx.models import loading, lora
from ecellm_mlx.models.fingerprint import base_fingerprint

TOKENS = [[5, 40, 77, 12, 9, 25, 63]]
SMALL = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": None,
}

OWN: dict[str, dict[str, Any]] = {
    "mistral": {"sliding_window": None},
    "phi": {"num_key_value_heads": 4, "partial_rotary_factor": 0.5},
    "qwen3": {"head_dim": 12},
    # A window that is shorter than ``TOKENS``.
    "gemma3_text": {
        "head_dim": 16,
        "query_pre_attn_scalar": 20,
        "sliding_window": 3,
        "layer_types": ["sliding_attention", "full_attention"],
    },
}


def make_base(folder: Path, name: str, *, tied: bool, seed: int = 0, **settings: Any) -> Path:
    """A random float32 checkpoint that transformers writes."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    own = OWN.get(name, {})
    config = AutoConfig.for_model(
        name, **{**SMALL, **own, **settings}, tie_word_embeddings=tied
    )
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config).to(torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():
            # Larger than the default, so that logits differ by more than rounding.
            parameter.normal_(0, 0.2) if parameter.ndim > 1 else parameter.add_(0.1)
    model.save_pretrained(folder)
    return folder


def torch_model(base: Path) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)


def peft_adapter(model: Any, folder: Path, *, seed: int = 1, **config: Any) -> np.ndarray:
    """Let PEFT make and save an adapter with random numbers; returns its logits."""
    import torch
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PEFT warns of tied weights and of saved embeddings
        wrapped = get_peft_model(
            model, LoraConfig(init_lora_weights=False, task_type="CAUSAL_LM", **config)
        )
        with torch.no_grad():
            for name, parameter in wrapped.named_parameters():
                if "lora_magnitude" in name:
                    parameter.mul_(1 + 0.2 * torch.rand_like(parameter))
                elif "lora_" in name:
                    parameter.mul_(0.3)
        wrapped.eval()
        wrapped.save_pretrained(folder)
        with torch.no_grad():
            return wrapped(torch.tensor(TOKENS)).logits.float().numpy()


def peft_logits(base: Any, adapter: Path) -> np.ndarray:
    """Logits of PyTorch with a PEFT adapter on ``base``, a folder or a model.

    A tensor that PEFT does not use is an error.
    """
    import torch
    from peft import PeftModel

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = torch_model(base) if isinstance(base, Path) else base
        model = PeftModel.from_pretrained(model, adapter).eval()
    assert not [w for w in caught if "adapter keys" in str(w.message)]
    with torch.no_grad():
        return model(torch.tensor(TOKENS)).logits.numpy()


def mlx_logits(
    base: Path, adapter: Path | None = None, *, by_mlx_lm: bool = False
) -> np.ndarray:
    """Logits of MLX, with an adapter loaded by us or by plain mlx-lm."""
    from mlx_lm.utils import load_adapters

    model, _ = loading.open_lazily(base)
    if adapter is not None and by_mlx_lm:
        load_adapters(model, str(adapter))
    elif adapter is not None:
        lora.load(model, adapter, base=base_fingerprint(base))
    model.eval()
    return np.array(model(mx.array(TOKENS)))


def tensors(folder: Path) -> dict[str, mx.array]:
    """All tensors of an adapter folder."""
    arrays: dict[str, mx.array] = {}
    for path in sorted(folder.glob("*.safetensors")):
        arrays |= mx.load(str(path))
    return arrays
