"""Write a LoRA adapter as GGUF: llama.cpp puts it on a base at run time.

llama.cpp computes W x + (alpha / rank) · B A x with one alpha for the file and each
tensor's own rank, so what differs in scale is moved into B. ``lora_a`` is (rank, in) and
``lora_b`` (out, rank); an embedding keeps (rows, rank) and (columns, rank).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx

from converters.errors import ConversionError
from converters.gguf_export import About, GgufTensor, write_tensors
from converters.gguf_names import FUSED, Names

EMBEDDING = "model.embed_tokens"
TYPES = ("F32", "F16")


@dataclass(frozen=True)
class Update:
    """The update of one layer: a (in, r), b (r, out), the factor on their product."""

    a: mx.array
    b: mx.array
    scale: float
    dora: bool = False

    @property
    def rank(self) -> int:
        """Columns of a."""
        return self.a.shape[1]


def write_adapter(
    path: Path,
    config: dict[str, Any],
    updates: Mapping[str, Update],
    about: About,
    *,
    kind: str = "F32",
    tied: bool = False,
    fused_qkv: bool = False,
) -> int:
    """Write the updates of a model by layer path.

    Args:
        path: file to write.
        config: ``config.json`` of the base.
        updates: by MLX path of the layer.
        about: origin.
        kind: F32 or F16.
        tied: whether the base's output layer is its embedding.
        fused_qkv: for a base whose q, k and v are one ``attn_qkv``.

    Returns:
        Bytes of all tensors.

    Raises:
        ConversionError: DoRA, or an embedding that is also the output layer, which
            llama.cpp's adapters cannot represent.
    """
    from gguf import GGUFType, GGUFWriter, Keys, LlamaFileType

    if dora := [name for name, update in updates.items() if update.dora]:
        raise ConversionError(
            f"{dora[0]} is a DoRA update, which a GGUF adapter cannot hold; export the fused "
            "model instead (without --adapter-only)."
        )
    if tied and EMBEDDING in updates:
        raise ConversionError(
            "the adapter changes an embedding that is also the output layer, which llama.cpp's "
            "adapters cannot represent; export the fused model (without --adapter-only)."
        )
    names = Names(config)
    # The value that leaves most matrices as they are.
    alphas = Counter(update.scale * update.rank for update in updates.values())
    alpha = alphas.most_common(1)[0][0] or 1.0
    tensors: list[GgufTensor] = []
    for name, update in (
        _joined(updates, config, names) if fused_qkv else _plain(updates, names)
    ):
        factor = update.scale * update.rank / alpha
        a, b = update.a.astype(mx.float32), update.b.astype(mx.float32)
        b = b.T if factor == 1.0 else b.T * factor
        a = a if name.startswith("token_embd") else a.T
        for leaf, array in (("lora_a", a), ("lora_b", b)):
            tensors.append(_tensor(f"{name}.{leaf}", array, kind))
    writer = GGUFWriter(path, names.gguf.name)
    writer.add_type(GGUFType.ADAPTER)
    writer.add_string(Keys.Adapter.TYPE, "lora")
    writer.add_float32(Keys.Adapter.LORA_ALPHA, alpha)
    writer.add_name(about.name)
    if about.licence:
        writer.add_license(about.licence)
    if about.base_name:
        writer.add_base_model_count(1)
        writer.add_base_model_name(0, about.base_name)
    writer.add_file_type(LlamaFileType["ALL_F32" if kind == "F32" else "MOSTLY_F16"])
    return write_tensors(writer, tensors)


def _tensor(name: str, array: mx.array, kind: str) -> GgufTensor:
    return GgufTensor(name, tuple(array.shape), kind, lambda: array)


def _plain(updates: Mapping[str, Update], names: Names) -> list[tuple[str, Update]]:
    result = []
    for module, update in updates.items():
        b = names.permute(f"{module}.weight", update.b.T).T
        result.append((names.of(f"{module}.weight"), Update(update.a, b, update.scale)))
    return result


def _joined(
    updates: Mapping[str, Update], config: dict[str, Any], names: Names
) -> list[tuple[str, Update]]:
    """q, k and v of a block as one update: A side by side, B block by block.

    The rank is the sum of theirs; a scale of their own is moved into B.
    """
    rest = {m: u for m, u in updates.items() if m.rsplit(".", 1)[-1] not in FUSED}
    result = _plain(rest, names)
    width = int(config["hidden_size"])
    for layer in range(names.layers):
        prefix = f"model.layers.{layer}.self_attn."
        present = [
            (i, updates[prefix + key]) for i, key in enumerate(FUSED) if prefix + key in updates
        ]
        if not present:
            continue
        blocks = []
        for index, update in present:
            block = update.b.astype(mx.float32) * update.scale
            blocks.append(mx.pad(block, [(0, 0), (index * width, (2 - index) * width)]))
        a = mx.concatenate([update.a.astype(mx.float32) for _, update in present], axis=1)
        result.append((f"blk.{layer}.attn_qkv.weight", Update(a, mx.concatenate(blocks), 1.0)))
    return result
