"""Where GGUF keeps the tensors of a model, in which order of rows, and how its norms.

Names are the ``gguf`` library's own. llama.cpp rotates neighbouring values in models of
the llama kind, Hugging Face values half a head apart, so rows of q and k change places;
which family is of that kind, ``converters.architectures`` says.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import mlx.core as mx

from converters import architectures
from converters.architectures import QKV
from converters.errors import ConversionError

if TYPE_CHECKING:
    from gguf import TensorNameMap

# Names of the layers that GGUF may keep as one, ``attn_qkv``, in the order of its rows.
FUSED = tuple(path.rpartition(".")[2] for path in QKV)
NORM = "norm.weight"


class Names:
    """Names of one model's tensors.

    Args:
        config: ``config.json`` of the model.

    Raises:
        ConversionError: an architecture, or a setting of it, that is not supported.
    """

    def __init__(self, config: dict[str, Any]) -> None:
        from gguf import MODEL_ARCH_NAMES, get_tensor_name_map

        self.gguf = architectures.exported_to_gguf(str(config.get("model_type")))
        self._check(config)
        self.layers = int(config["num_hidden_layers"])
        heads = int(config["num_attention_heads"])
        self.heads = {
            "q_proj": heads,
            "k_proj": int(config.get("num_key_value_heads") or heads),
        }
        kind = next(k for k, name in MODEL_ARCH_NAMES.items() if name == self.gguf.name)
        self._map: TensorNameMap = get_tensor_name_map(kind, self.layers)

    def of(self, name: str) -> str:
        """GGUF's name of an MLX tensor.

        Raises:
            ConversionError: it has none.
        """
        theirs = self._map.get_name(name, try_suffixes=(".weight", ".bias"))
        if theirs is None:
            raise ConversionError(
                f"the tensor {name!r} has no place in a GGUF {self.gguf.name} model."
            )
        return theirs

    def values(self, name: str, array: mx.array) -> mx.array:
        """A tensor as llama.cpp has it: rows in its order, weights of norms whole."""
        if self.gguf.norm_offset and name.endswith(NORM):
            return array.astype(mx.float32) + self.gguf.norm_offset
        return self.permute(name, array)

    def permute(self, name: str, rows: mx.array) -> mx.array:
        """Rows of a q or k tensor (or of its update's B) in llama.cpp's order.

        Shape: (heads · head_dim, …), of any width or none.
        """
        module = name.split(".")[-2] if "." in name else name
        if not self.gguf.neighbours or module not in self.heads:
            return rows
        heads, rest = self.heads[module], rows.shape[1:]
        pairs = rows.reshape(heads, 2, rows.shape[0] // heads // 2, *rest)
        return pairs.swapaxes(1, 2).reshape(rows.shape)

    def _check(self, config: dict[str, Any]) -> None:
        """Refuse what a file of this architecture has no place for."""
        for key, value in self.gguf.taken_for_granted.items():
            wanted = config.get(value) if isinstance(value, str) else value
            if wanted is not None and config.get(key, wanted) != wanted:
                raise ConversionError(
                    f"the base has {key} = {config[key]}, and GGUF's {self.gguf.name} models "
                    f"are computed with {wanted}; use `ecellm export hf` instead."
                )
