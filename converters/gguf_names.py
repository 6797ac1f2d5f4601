"""Where GGUF keeps the tensors of Llama, Mistral and Phi-2, and in which order of rows.

Names are the ``gguf`` library's own. llama.cpp rotates neighbouring values in models of
the llama kind, Hugging Face values half a head apart, so rows of q and k change places;
Phi-2 is rotated as Hugging Face does it, and its q, k and v may be one tensor.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import mlx.core as mx

from converters.errors import ConversionError

if TYPE_CHECKING:
    from gguf import TensorNameMap

# model_type of config.json → architecture in GGUF
ARCHITECTURES = {"llama": "llama", "mistral": "llama", "phi": "phi2"}
QKV = ("q_proj", "k_proj", "v_proj")


class Names:
    """Names of one model's tensors.

    Args:
        config: ``config.json`` of the model.

    Raises:
        ConversionError: an architecture, or a setting of it, that is not supported.
    """

    def __init__(self, config: dict[str, Any]) -> None:
        from gguf import MODEL_ARCH, get_tensor_name_map

        model_type = str(config.get("model_type"))
        if model_type not in ARCHITECTURES:
            raise ConversionError(
                f"GGUF export does not support the architecture {model_type!r}; supported are "
                f"{', '.join(ARCHITECTURES)}: use `ecellm export hf` instead."
            )
        self.architecture = ARCHITECTURES[model_type]
        self.layers = int(config["num_hidden_layers"])
        heads = int(config["num_attention_heads"])
        self.heads = {
            "q_proj": heads,
            "k_proj": int(config.get("num_key_value_heads") or heads),
        }
        kind = MODEL_ARCH.LLAMA if self.architecture == "llama" else MODEL_ARCH.PHI2
        self._map: TensorNameMap = get_tensor_name_map(kind, self.layers)

    def of(self, name: str) -> str:
        """GGUF's name of an MLX tensor.

        Raises:
            ConversionError: it has none.
        """
        found = self._map.get_name(name, try_suffixes=(".weight", ".bias"))
        if found is None:
            raise ConversionError(
                f"the tensor {name!r} has no place in a GGUF {self.architecture} model."
            )
        return found

    def permute(self, name: str, rows: mx.array) -> mx.array:
        """Rows of a q or k tensor (or of its update's B) in llama.cpp's order.

        Shape: (heads · head_dim, …), of any width or none.
        """
        module = name.split(".")[-2] if "." in name else name
        if self.architecture != "llama" or module not in self.heads:
            return rows
        heads, rest = self.heads[module], rows.shape[1:]
        pairs = rows.reshape(heads, 2, rows.shape[0] // heads // 2, *rest)
        return pairs.swapaxes(1, 2).reshape(rows.shape)
