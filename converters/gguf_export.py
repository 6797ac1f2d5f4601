"""Write a model as GGUF, for llama.cpp, Ollama and LM Studio; tensor by tensor.

Matrices are stored as F32, F16 or Q8_0, vectors always as F32, as llama.cpp does it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from converters import architectures
from converters.errors import ConversionError
from converters.gguf_names import FUSED, Names
from converters.gguf_vocab import SPECIALS, Vocabulary
from converters.merged import Weight
from converters.shards import Progress

if TYPE_CHECKING:
    from gguf import GGUFWriter

TYPES = ("F32", "F16", "Q8_0")
Q8_0_BLOCK = 32
FLOAT16_MAX = 65504.0


@dataclass(frozen=True)
class GgufTensor:
    """A tensor that is still to be computed: ``shape`` is (rows, columns)."""

    name: str
    shape: tuple[int, ...]
    type: str
    compute: Callable[[], mx.array]

    @property
    def nbytes(self) -> int:
        """Bytes in the file."""
        values = math.prod(self.shape)
        return {"F32": 4 * values, "F16": 2 * values, "Q8_0": values // Q8_0_BLOCK * 34}[
            self.type
        ]


@dataclass(frozen=True)
class About:
    """What the metadata says of a file's origin."""

    name: str
    licence: str = ""
    base_name: str = ""
    base_repo: str = ""


def plan(
    weights: Iterator[Weight], names: Names, kind: str, *, fused_qkv: bool
) -> list[GgufTensor]:
    """The tensors of the file, in the model's order.

    Args:
        weights: the model's tensors in floats.
        names: of this model.
        kind: one of ``TYPES``, for matrices.
        fused_qkv: q, k and v as one ``attn_qkv``.
    """
    tensors = []
    waiting: dict[str, dict[str, Weight]] = {}
    for weight in weights:
        module, _, leaf = weight.name.rpartition(".")
        module = module.rsplit(".", 1)[-1]
        if fused_qkv and module in FUSED:
            parts = waiting.setdefault(leaf, {})
            parts[module] = weight
            if len(parts) == len(FUSED):
                tensors.append(_joined([parts[key] for key in FUSED], kind))
                waiting.pop(leaf)
            continue
        type_ = _type(weight.shape, kind)
        tensors.append(
            GgufTensor(names.of(weight.name), weight.shape, type_, _values(weight, names))
        )
    return tensors


def write_model(
    path: Path,
    config: dict[str, Any],
    tensors: list[GgufTensor],
    vocabulary: Vocabulary,
    names: Names,
    kind: str,
    about: About,
    progress: Progress = lambda _done, _total: None,
) -> int:
    """Write the file; ``tensors`` is emptied on the way.

    Returns:
        Bytes of all tensors.

    Raises:
        ConversionError: the configuration says something that GGUF cannot.
        OSError: the disk is full, or the folder cannot be written.
    """
    from gguf import GGML_QUANT_VERSION, GGUFType, GGUFWriter, LlamaFileType, size_label

    writer = GGUFWriter(path, names.gguf.name)
    writer.add_type(GGUFType.MODEL)
    _add_origin(writer, about)
    count = sum(math.prod(tensor.shape) for tensor in tensors)
    writer.add_size_label(size_label(count, count, 0, 0))
    _add_architecture(writer, config, names)
    writer.add_file_type(LlamaFileType["ALL_F32" if kind == "F32" else f"MOSTLY_{kind}"])
    _add_vocabulary(writer, vocabulary)
    writer.add_quantization_version(GGML_QUANT_VERSION)
    return write_tensors(writer, tensors, progress)


def write_tensors(
    writer: GGUFWriter,
    tensors: list[GgufTensor],
    progress: Progress = lambda _done, _total: None,
) -> int:
    """Write header, metadata and tensors; close the file.

    Raises:
        ConversionError: a value that F16 cannot hold.
        OSError: the disk is full, or the folder cannot be written.
    """
    from gguf import GGMLQuantizationType

    total = sum(tensor.nbytes for tensor in tensors)
    for tensor in tensors:
        # The library takes the shape in values, whatever the type packs them into.
        writer.add_tensor_info(
            tensor.name,
            tensor.shape,
            np.dtype(np.float32),
            tensor.nbytes,
            raw_dtype=GGMLQuantizationType[tensor.type],
        )
    try:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        assert writer.fout is not None
        stream = writer.fout[0]
        writer.write_padding(stream, stream.tell())
        done = 0
        while tensors:
            tensor = tensors.pop(0)
            # Not the library's own writing, which hides why a disk refused.
            stream.write(_encoded(tensor).data.cast("B"))
            writer.write_padding(stream, tensor.nbytes)
            done += tensor.nbytes
            progress(done, total)
    finally:
        writer.close()
    return total


def _encoded(tensor: GgufTensor) -> NDArray[Any]:
    from gguf import GGMLQuantizationType
    from gguf.quants import quantize

    values = np.ascontiguousarray(np.asarray(tensor.compute().astype(mx.float32)))
    if not np.isfinite(values).all():
        raise ConversionError(
            f"{tensor.name} has values that are no numbers; check the adapter."
        )
    if tensor.type == "Q8_0":
        return quantize(values, GGMLQuantizationType.Q8_0)
    if tensor.type == "F16":
        if np.abs(values).max(initial=0) > FLOAT16_MAX:
            raise ConversionError(
                f"{tensor.name} has values that F16 cannot hold; choose --type q8_0 or f32."
            )
        return values.astype(np.float16)
    return values


def _type(shape: tuple[int, ...], kind: str) -> str:
    if len(shape) < 2:
        return "F32"
    if kind == "Q8_0" and shape[-1] % Q8_0_BLOCK:
        return "F16"
    return kind


def _values(weight: Weight, names: Names) -> Callable[[], mx.array]:
    return lambda: names.values(weight.name, weight.compute())


def _joined(parts: list[Weight], kind: str) -> GgufTensor:
    leaf = parts[0].name.rsplit(".", 1)[-1]
    block = parts[0].name.split(".layers.")[1].split(".")[0]
    shape = (sum(part.shape[0] for part in parts), *parts[0].shape[1:])

    def compute() -> mx.array:
        return mx.concatenate([part.compute().astype(mx.float32) for part in parts])

    return GgufTensor(f"blk.{block}.attn_qkv.{leaf}", shape, _type(shape, kind), compute)


def _add_origin(writer: GGUFWriter, about: About) -> None:
    writer.add_name(about.name)
    if about.licence:
        writer.add_license(about.licence)
    if about.base_name:
        writer.add_base_model_count(1)
        writer.add_base_model_name(0, about.base_name)
    if about.base_repo:
        writer.add_base_model_organization(0, about.base_repo.split("/")[0])
        writer.add_base_model_repo_url(0, f"https://huggingface.co/{about.base_repo}")
    writer.add_languages(["en"])


def _add_architecture(writer: GGUFWriter, config: dict[str, Any], names: Names) -> None:
    hidden, heads = int(config["hidden_size"]), names.heads["q_proj"]
    family = architectures.ARCHITECTURES[config["model_type"]]
    head_dim = family.head_width(config)
    writer.add_block_count(names.layers)
    writer.add_context_length(int(config["max_position_embeddings"]))
    writer.add_embedding_length(hidden)
    writer.add_feed_forward_length(int(config["intermediate_size"]))
    writer.add_head_count(heads)
    writer.add_head_count_kv(names.heads["k_proj"])
    writer.add_vocab_size(int(config["vocab_size"]))
    writer.add_rope_freq_base(float(config.get("rope_theta") or 10000.0))
    if names.gguf.layer_norm:
        writer.add_layer_norm_eps(float(config.get("layer_norm_eps", 1e-5)))
    else:
        writer.add_layer_norm_rms_eps(float(config["rms_norm_eps"]))
    rotary = config.get("partial_rotary_factor", family.rotary)
    writer.add_rope_dimension_count(int(rotary * head_dim))
    if family.head_dim or head_dim != hidden // heads:
        writer.add_key_length(head_dim)
        writer.add_value_length(head_dim)
    if names.gguf.window:
        writer.add_sliding_window(int(config["sliding_window"]))
    _add_rope_scaling(writer, config.get("rope_scaling") or {})


def _add_rope_scaling(writer: GGUFWriter, scaling: dict[str, Any]) -> None:
    from gguf import RopeScalingType

    kind = scaling.get("rope_type", scaling.get("type", "default"))
    if kind == "linear":
        writer.add_rope_scaling_type(RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(float(scaling["factor"]))
    elif kind != "default":
        raise ConversionError(
            f"the base scales its rotary positions by {kind!r}, which GGUF export does not "
            "support; use `ecellm export hf` instead."
        )


def _add_vocabulary(writer: GGUFWriter, vocabulary: Vocabulary) -> None:
    writer.add_tokenizer_model(vocabulary.kind)
    writer.add_tokenizer_pre(vocabulary.pre)
    writer.add_token_list(vocabulary.tokens)
    writer.add_token_types(vocabulary.types)
    if vocabulary.kind == "llama":
        writer.add_token_scores(vocabulary.scores)
    else:
        writer.add_token_merges(vocabulary.merges)
    add = {
        "bos": writer.add_bos_token_id,
        "eos": writer.add_eos_token_id,
        "unk": writer.add_unk_token_id,
        "pad": writer.add_pad_token_id,
    }
    for name in SPECIALS:
        if name in vocabulary.special_ids:
            add[name](vocabulary.special_ids[name])
    writer.add_add_bos_token(vocabulary.add_bos)
    writer.add_add_space_prefix(vocabulary.add_space_prefix)
    if vocabulary.chat_template:
        writer.add_chat_template(vocabulary.chat_template)
