"""Configurations of Phi as Microsoft's own code has them, in native keys. Pure data."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

# model_type of the remote code's configurations: phi-2 and phi-1.5, and earlier ones.
REMOTE_TYPES = ("phi-msft", "mixformer-sequential", "phi")
_REMOTE_KEYS = (
    "activation_function", "attn_pdrop", "auto_map", "embd_pdrop", "flash_attn", "flash_rotary",
    "fused_dense", "layer_norm_epsilon", "n_embd", "n_head", "n_head_kv", "n_inner", "n_layer",
    "n_positions", "resid_pdrop", "rotary_dim",
)  # fmt: skip


def native_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """A ``config.json`` with the remote code's keys, in native ones; others as they are.

    The remote code rotates ``rotary_dim`` dimensions of a head, native Phi a share of them.
    """
    if config.get("model_type") not in REMOTE_TYPES or "n_embd" not in config:
        return dict(config)
    hidden, heads = int(config["n_embd"]), int(config["n_head"])
    head = hidden // heads
    rotary = min(int(config.get("rotary_dim", head)), head)
    factor = rotary / head
    if int(factor * head) < rotary:
        factor = math.nextafter(factor, 1)
    native = {
        "model_type": "phi",
        "architectures": ["PhiForCausalLM"],
        "hidden_size": hidden,
        "intermediate_size": config.get("n_inner") or 4 * hidden,
        "num_hidden_layers": config["n_layer"],
        "num_attention_heads": heads,
        "num_key_value_heads": config.get("n_head_kv") or heads,
        "max_position_embeddings": config.get("n_positions", 2048),
        "layer_norm_eps": config.get("layer_norm_epsilon", 1e-5),
        "hidden_act": config.get("activation_function", "gelu_new"),
        "partial_rotary_factor": factor,
        "rope_theta": 10000.0,
        "tie_word_embeddings": bool(config.get("tie_word_embeddings", False)),
    }
    kept = {k: v for k, v in config.items() if k not in (*_REMOTE_KEYS, *native)}
    return {**kept, **native}
