"""GGUF → MLX model folder, exactly.

MLX reads Q4_0, Q4_1 and Q8_0 blocks as affine quantization with group size 32:
the same integers, scales and offsets, so nothing is re-quantized. Other quantized
types have no such equivalent and are refused. PyTorch is not needed.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from converters import architectures
from converters.errors import ConversionError
from converters.files import write_json
from converters.folders import new_folder
from converters.gguf_header import GgufHeader, read_header
from converters.gguf_tokenizer import write_tokenizer

BITS = {"Q4_0": 4, "Q4_1": 4, "Q8_0": 8}
PLAIN = ("F32", "F16")
GROUP_SIZE = 32

LLAMA_NAMES = (
    (r"token_embd\.(.+)", r"model.embed_tokens.\1"),
    (r"output_norm\.(.+)", r"model.norm.\1"),
    (r"output\.(.+)", r"lm_head.\1"),
    (r"blk\.(\d+)\.attn_norm\.(.+)", r"model.layers.\1.input_layernorm.\2"),
    (r"blk\.(\d+)\.ffn_norm\.(.+)", r"model.layers.\1.post_attention_layernorm.\2"),
    (r"blk\.(\d+)\.attn_(q|k|v)\.(.+)", r"model.layers.\1.self_attn.\2_proj.\3"),
    (r"blk\.(\d+)\.attn_output\.(.+)", r"model.layers.\1.self_attn.o_proj.\2"),
    (r"blk\.(\d+)\.ffn_(gate|up|down)\.(.+)", r"model.layers.\1.mlp.\2_proj.\3"),
)


def import_gguf(source: Path, target: Path) -> Path:
    """Write the model in ``source`` as an MLX folder at ``target``.

    Args:
        source: a GGUF file of the ``llama`` architecture (Llama, Mistral, SmolLM2).
        target: a folder that does not exist yet or is empty.

    Returns:
        ``target``, with config, weights, tokenizer and a note on its origin.

    Raises:
        ConversionError: the file is damaged, of another architecture, or holds
            tensors that would have to be re-quantized.
    """
    header = read_header(source)
    architecture = header.need("general.architecture")
    if architectures.imported_from_gguf(architecture) is None:
        raise ConversionError(
            f"{source} holds a {architecture!r} model; GGUF import supports the llama "
            "architecture (Llama, Mistral, SmolLM2): pull the model from the hub instead."
        )
    _check_types(header)
    with new_folder(target) as folder:
        config = model_config(header)
        arrays = mx.load(str(source), format="gguf")
        assert isinstance(arrays, dict)
        weights = _rename(header, arrays, config)
        write_json(folder / "config.json", config)
        mx.save_safetensors(
            str(folder / "model.safetensors"), weights, metadata={"format": "mlx"}
        )
        write_tokenizer(header, folder)
        write_json(folder / ".ecellm-source.json", _origin(header))
    return target


def model_config(header: GgufHeader) -> dict[str, Any]:
    """The Hugging Face configuration that the metadata describes, with MLX quantization."""

    name = header.need("general.architecture")
    model_type = architectures.imported_from_gguf(name)
    assert model_type is not None

    def need(key: str) -> Any:
        return header.need(f"{name}.{key}")

    heads = need("attention.head_count")
    config: dict[str, Any] = {
        "architectures": [architectures.ARCHITECTURES[model_type].hf_class],
        "model_type": model_type,
        "hidden_size": need("embedding_length"),
        "intermediate_size": need("feed_forward_length"),
        "num_hidden_layers": need("block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": header.metadata.get(f"{name}.attention.head_count_kv", heads),
        "max_position_embeddings": need("context_length"),
        "rms_norm_eps": _shortest(need("attention.layer_norm_rms_epsilon")),
        "rope_theta": _shortest(header.metadata.get(f"{name}.rope.freq_base", 10000.0)),
        "vocab_size": len(header.need("tokenizer.ggml.tokens")),
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": "output.weight" not in header.tensors,
    }
    head_dim = config["hidden_size"] // heads
    if header.metadata.get(f"{name}.rope.dimension_count", head_dim) != head_dim:
        raise ConversionError(
            f"{header.path} rotates a part of each head, which is unsupported."
        )
    if scaling := [key for key in header.metadata if key.startswith(f"{name}.rope.scaling.")]:
        raise ConversionError(
            f"{header.path} scales its rotary positions ({scaling[0]}), which GGUF import does "
            "not support; pull the model from the hub instead."
        )
    for key in ("bos", "eos"):
        if (value := header.metadata.get(f"tokenizer.ggml.{key}_token_id")) is not None:
            config[f"{key}_token_id"] = value
    config.update(_quantization(header))
    return config


def _check_types(header: GgufHeader) -> None:
    refused = sorted({t.type for t in header.tensors.values()} - {*BITS, *PLAIN})
    if refused:
        raise ConversionError(
            f"{header.path} holds {', '.join(refused)} tensors, which MLX could only take "
            f"re-quantized; use a file in {', '.join((*PLAIN, *BITS))}."
        )


def _quantization(header: GgufHeader) -> dict[str, Any]:
    """MLX's ``quantization`` entry: the commonest bits, and exceptions by module."""
    bits = {
        mlx_name(t.name).removesuffix(".weight"): BITS[t.type]
        for t in header.tensors.values()
        if t.type in BITS
    }
    if not bits:
        return {}
    common = max(sorted(set(bits.values())), key=list(bits.values()).count)
    exceptions = {
        name: {"group_size": GROUP_SIZE, "bits": n} for name, n in bits.items() if n != common
    }
    return {"quantization": {"group_size": GROUP_SIZE, "bits": common, **exceptions}}


def _rename(
    header: GgufHeader, arrays: dict[str, mx.array], config: dict[str, Any]
) -> dict[str, mx.array]:
    heads = {"q_proj": config["num_attention_heads"], "k_proj": config["num_key_value_heads"]}
    weights: dict[str, mx.array] = {}
    for name, array in arrays.items():
        if name == "rope_freqs.weight":
            raise ConversionError(
                f"{header.path} scales its rotary positions (rope_freqs), which GGUF import "
                "does not support; pull the model from the hub instead."
            )
        new_name = mlx_name(name)
        module = new_name.rsplit(".", 2)[-2]
        weights[new_name] = _unpermute(array, heads[module]) if module in heads else array
    return weights


def mlx_name(name: str) -> str:
    """The MLX (and Hugging Face) name of a llama tensor.

    Raises:
        ConversionError: the name belongs to no known tensor.
    """
    for pattern, replacement in LLAMA_NAMES:
        if re.fullmatch(pattern, name):
            return re.sub(pattern, replacement, name)
    raise ConversionError(f"the GGUF tensor {name!r} has no place in a llama model.")


def _unpermute(array: mx.array, heads: int) -> mx.array:
    """Undo llama.cpp's reordering of rotary pairs.

    llama.cpp keeps the two halves of a rotary pair side by side, MLX and Hugging
    Face half a head apart. Rows move as a whole, so packed weights, scales and
    biases move alike. Shape: (heads · head_dim, columns).
    """
    rows, columns = array.shape
    pairs = array.reshape(heads, rows // heads // 2, 2, columns)
    return pairs.swapaxes(1, 2).reshape(rows, columns)


def _shortest(value: float) -> float:
    """The shortest decimal of a float32: 1e-05, not 9.999999747378752e-06."""
    return float(str(np.float32(value)))


def _origin(header: GgufHeader) -> dict[str, Any]:
    with header.path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return {
        "imported_from": header.path.name,
        "sha256": digest,
        "name": header.metadata.get("general.name"),
        "license": header.metadata.get("general.license"),
    }
