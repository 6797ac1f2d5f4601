"""The shape of a model, from its configuration or the registry, without any weights."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ecellm_mlx.errors import ModelError
from ecellm_mlx.models import registry

# Layers of one block by architecture: name, (inputs, outputs) in terms of a shape.
GATED = ("gate_proj", "up_proj", "down_proj")
PHI = ("q_proj", "k_proj", "v_proj", "dense", "fc1", "fc2")
LLAMA = ("q_proj", "k_proj", "v_proj", "o_proj", *GATED)


@dataclass(frozen=True)
class Shape:
    """What decides memory and work of a model. ``bits`` is that of its stored weights."""

    model_type: str
    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    vocab: int
    head_dim: int
    tied_head: bool = False
    bits: int = 16

    @property
    def kv(self) -> int:
        """Width of keys and of values."""
        return self.kv_heads * self.head_dim

    @property
    def linears(self) -> dict[str, tuple[int, int]]:
        """The linear layers of one block: name → (in, out)."""
        inner = self.heads * self.head_dim
        sizes = {
            "q_proj": (self.hidden, inner),
            "k_proj": (self.hidden, self.kv),
            "v_proj": (self.hidden, self.kv),
            "o_proj": (inner, self.hidden),
            "dense": (inner, self.hidden),
            "gate_proj": (self.hidden, self.intermediate),
            "up_proj": (self.hidden, self.intermediate),
            "down_proj": (self.intermediate, self.hidden),
            "fc1": (self.hidden, self.intermediate),
            "fc2": (self.intermediate, self.hidden),
        }
        return {name: sizes[name] for name in (PHI if self.model_type == "phi" else LLAMA)}

    @property
    def block_parameters(self) -> int:
        """Weights of the linear layers of all blocks."""
        return self.layers * sum(i * o for i, o in self.linears.values())

    @property
    def embedding_parameters(self) -> int:
        """Weights of the embedding, and of the output head where it has its own."""
        return self.vocab * self.hidden * (1 if self.tied_head else 2)


def of(model: str) -> Shape:
    """The shape of a registry name or a folder; the model need not be installed.

    Raises:
        ModelError: there is no such model, or its configuration lacks something.
    """
    try:
        path = registry.resolve(model)
    except ModelError:
        card = registry.REGISTRY.get(model.partition("@")[0])
        if card is None:
            raise
        return Shape(
            model_type=card.model_type,
            layers=card.layers,
            hidden=card.hidden,
            intermediate=card.intermediate,
            heads=card.heads,
            kv_heads=card.kv_heads,
            vocab=card.vocab,
            head_dim=card.hidden // card.heads,
            tied_head=card.tied_head,
        )
    return _from_config(path)


def _from_config(path: Path) -> Shape:
    file = path / "config.json"
    try:
        config: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        heads, hidden = int(config["num_attention_heads"]), int(config["hidden_size"])
        stored = str(config.get("dtype") or config.get("torch_dtype") or "float16")
        quantization = config.get("quantization") or config.get("quantization_config") or {}
        return Shape(
            model_type=str(config["model_type"]),
            layers=int(config["num_hidden_layers"]),
            hidden=hidden,
            intermediate=int(config["intermediate_size"]),
            heads=heads,
            kv_heads=int(config.get("num_key_value_heads") or heads),
            vocab=int(config["vocab_size"]),
            head_dim=int(config.get("head_dim") or hidden // heads),
            tied_head=bool(config.get("tie_word_embeddings", False)),
            bits=int(quantization.get("bits") or (32 if stored == "float32" else 16)),
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(
            f"{file} does not say the model's shape",
            got=f"{type(error).__name__}: {error}",
            cure="use a Llama, Mistral, Phi or similar model",
        ) from None
