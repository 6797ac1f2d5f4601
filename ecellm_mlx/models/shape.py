"""The shape of a model, from its configuration or the registry, without any weights."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ecellm_mlx.errors import ModelError
from ecellm_mlx.models import registry
from ecellm_mlx.models.config import read_config

from converters import architectures
from converters.architectures import Architecture

ALL_LINEAR = "all-linear"
EMBEDDING, HEAD = "embed_tokens", "lm_head"


@dataclass(frozen=True, kw_only=True)
class ModelShape:
    """What decides memory and work of a model. ``bits`` is that of its stored weights."""

    family: Architecture
    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    tied_head: bool = False
    bits: int = 16

    @property
    def queries(self) -> int:
        """Width of the queries of all heads."""
        return self.heads * self.head_dim

    @property
    def keys(self) -> int:
        """Width of keys and of values."""
        return self.kv_heads * self.head_dim

    @property
    def linears(self) -> dict[str, tuple[int, int]]:
        """The linear layers of one block: path in the block → (in, out)."""
        return {
            path: (self._width(narrow), self._width(wide))
            for path, (narrow, wide) in self.family.linears.items()
        }

    def adapted(self, targets: Iterable[str]) -> dict[str, tuple[int, int]]:
        """Of a block's linear layers those that a recipe's ``targets`` name."""
        targets = list(targets)
        return {
            path: size
            for path, size in self.linears.items()
            if ALL_LINEAR in targets or any(f".{path}".endswith(f".{t}") for t in targets)
        }

    @property
    def block_parameters(self) -> int:
        """Weights of the linear layers of all blocks."""
        return self.layers * sum(i * o for i, o in self.linears.values())

    @property
    def embedding_parameters(self) -> int:
        """Weights of the embedding, and of the output head where it has its own."""
        return self.vocab * self.hidden * (1 if self.tied_head else 2)

    def _width(self, sum_of: architectures.Width) -> int:
        return sum(getattr(self, name) for name in sum_of.split("+"))


def of(model: str) -> ModelShape:
    """The shape of a registry name or a folder; the model need not be installed.

    Raises:
        ModelError: there is no such model, its configuration lacks something, or nothing
            is known of its architecture.
    """
    try:
        path = registry.resolve(model)
    except ModelError:
        card = registry.REGISTRY.get(model.partition("@")[0])
        if card is None:
            raise
        return ModelShape(
            family=architectures.ARCHITECTURES[card.model_type],
            layers=card.layers,
            hidden=card.hidden,
            intermediate=card.intermediate,
            heads=card.heads,
            kv_heads=card.kv_heads,
            head_dim=card.head_dim or card.hidden // card.heads,
            vocab=card.vocab,
            tied_head=card.tied_head,
        )
    return _from_config(path)


def _from_config(path: Path) -> ModelShape:
    file = path / "config.json"
    try:
        config = read_config(path)
        family = architectures.get(config["model_type"])
        if family is None:
            raise ModelError(
                f"nothing is known of the layers of the architecture {config['model_type']!r}",
                expected=", ".join(architectures.ARCHITECTURES),
                cure=f"use a {architectures.supported()} model",
            )
        heads = int(config["num_attention_heads"])
        stored = str(config.get("dtype") or config.get("torch_dtype") or "float16")
        quantization = config.get("quantization") or config.get("quantization_config") or {}
        return ModelShape(
            family=family,
            layers=int(config["num_hidden_layers"]),
            hidden=int(config["hidden_size"]),
            intermediate=int(config["intermediate_size"]),
            heads=heads,
            kv_heads=int(config.get("num_key_value_heads") or heads),
            head_dim=family.head_width(config),
            vocab=int(config["vocab_size"]),
            tied_head=bool(config.get("tie_word_embeddings", family.tied)),
            bits=int(quantization.get("bits") or (32 if stored == "float32" else 16)),
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(
            f"{file} does not say the model's shape",
            got=f"{type(error).__name__}: {error}",
            cure=f"use a {architectures.supported()} model",
        ) from None
