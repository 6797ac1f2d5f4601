"""A small PyTorch model with the module names of Phi-2's remote code, for PEFT to adapt.

One block is x + attention(ln(x)) + mlp(ln(x)); q, k and v come from one layer, all rows
of q first; rotation takes the first ``rotary_dim`` dimensions of a head, in halves.
"""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn
from transformers import PreTrainedConfig

CONFIG: dict[str, Any] = {
    "model_type": "phi-msft",
    "architectures": ["PhiForCausalLM"],
    "auto_map": {"AutoModelForCausalLM": "modeling_phi.PhiForCausalLM"},
    "activation_function": "gelu_new",
    "embd_pdrop": 0.0,
    "layer_norm_epsilon": 1e-5,
    "n_embd": 32,
    "n_head": 4,
    "n_head_kv": None,
    "n_inner": None,
    "n_layer": 2,
    "n_positions": 64,
    "resid_pdrop": 0.1,
    "rotary_dim": 6,
    "tie_word_embeddings": False,
    "vocab_size": 96,
}


class Mixer(nn.Module):
    """Attention with a fused projection."""

    def __init__(self) -> None:
        super().__init__()
        width = CONFIG["n_embd"]
        self.Wqkv = nn.Linear(width, 3 * width)
        self.out_proj = nn.Linear(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, length, width = x.shape
        heads = CONFIG["n_head"]
        qkv = self.Wqkv(x).view(batch, length, 3, heads, width // heads)
        q, k, v = (qkv[:, :, i].transpose(1, 2) for i in range(3))
        out = nn.functional.scaled_dot_product_attention(
            rotated(q), rotated(k), v, is_causal=True
        )
        return self.out_proj(out.transpose(1, 2).reshape(batch, length, width))


class Mlp(nn.Module):
    """Two layers with the tanh approximation of GELU between them."""

    def __init__(self) -> None:
        super().__init__()
        width = CONFIG["n_embd"]
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc2(nn.functional.gelu(self.fc1(x), approximate="tanh"))


class Block(nn.Module):
    """Attention and MLP beside each other."""

    def __init__(self) -> None:
        super().__init__()
        self.ln = nn.LayerNorm(CONFIG["n_embd"], eps=CONFIG["layer_norm_epsilon"])
        self.mixer, self.mlp = Mixer(), Mlp()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        normed = self.ln(x)
        return x + self.mixer(normed) + self.mlp(normed)


class Embedding(nn.Module):
    """The token embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.wte = nn.Embedding(CONFIG["vocab_size"], CONFIG["n_embd"])


class Head(nn.Module):
    """The final norm and the output layer."""

    def __init__(self) -> None:
        super().__init__()
        self.ln = nn.LayerNorm(CONFIG["n_embd"], eps=CONFIG["layer_norm_epsilon"])
        self.linear = nn.Linear(CONFIG["n_embd"], CONFIG["vocab_size"])


class OldPhi(nn.Module):
    """The whole model: tokens (B, T) → an object with logits (B, T, vocab)."""

    def __init__(self) -> None:
        super().__init__()
        blocks = nn.ModuleList(Block() for _ in range(CONFIG["n_layer"]))
        self.transformer = nn.ModuleDict({"embd": Embedding(), "h": blocks})
        self.lm_head = Head()
        self.config = PreTrainedConfig.from_dict(CONFIG)

    def forward(self, input_ids: torch.Tensor, **_: Any) -> Any:
        x = self.transformer["embd"].wte(input_ids)
        for block in self.transformer["h"]:
            x = block(x)
        logits = self.lm_head.linear(self.lm_head.ln(x))
        return SimpleNamespace(logits=logits)

    def prepare_inputs_for_generation(
        self, input_ids: torch.Tensor, **_: Any
    ) -> dict[str, Any]:
        """PEFT looks for it on any causal model."""
        return {"input_ids": input_ids}


def rotated(x: torch.Tensor) -> torch.Tensor:
    """Rotary positions on the first dimensions of each head; x is (B, heads, T, head)."""
    turned, rest = x[..., : CONFIG["rotary_dim"]], x[..., CONFIG["rotary_dim"] :]
    half = CONFIG["rotary_dim"] // 2
    frequencies = 10000.0 ** (-torch.arange(half) / half)
    angles = torch.arange(x.shape[2])[:, None] * frequencies
    first, second = turned[..., :half], turned[..., half:]
    cos, sin = angles.cos(), angles.sin()
    parts = [first * cos - second * sin, first * sin + second * cos, rest]
    return torch.cat(parts, dim=-1)


def make(folder: Path) -> OldPhi:
    """A random model, saved as a checkpoint in the old layout."""
    torch.manual_seed(0)
    model = OldPhi().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.2) if parameter.ndim > 1 else parameter.add_(0.1)
    folder.mkdir()
    state = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    # The remote code saved its frequencies, too.
    state["transformer.h.0.mixer.rotary_emb.inv_freq"] = torch.ones(3)
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(CONFIG))
    return model
