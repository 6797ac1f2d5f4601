"""Export models and adapters as GGUF: what the converters need to know of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ecellm_mlx.device import backend  # noqa: F401
from ecellm_mlx.errors import UsageError
from ecellm_mlx.export import card
from ecellm_mlx.export.weights import Opened, open_base
from ecellm_mlx.export.write import Source, Written, write_card
from ecellm_mlx.files import check_space, new_folder

from converters.gguf_adapter import write_adapter
from converters.gguf_export import TYPES, About, plan, write_model
from converters.gguf_names import Names
from converters.gguf_vocab import read_vocabulary
from converters.shards import Progress

EMBEDDING = "model.embed_tokens.weight"


def export(
    source: Source,
    out: Path,
    *,
    kind: str = "f16",
    adapter_only: bool = False,
    split_qkv: bool = False,
    scores: tuple[dict[str, Any], ...] = (),
    progress: Progress = lambda _done, _total: None,
) -> tuple[Path, Written]:
    """Write ``<name of out>-<TYPE>.gguf`` and a model card into the new folder ``out``.

    Args:
        source: a model, or an adapter that is fused into its base.
        kind: f32, f16 or q8_0; an adapter is f32 or f16.
        adapter_only: write the adapter alone, for a base that is GGUF already.
        split_qkv: Phi-2: three tensors for q, k and v instead of one.

    Returns:
        The GGUF file, and the facts about it.

    Raises:
        UsageError: contradictory choices.
        ModelError, AdapterError, ConversionError: damaged or unfit files, a tokenizer
            that GGUF has no name for, a full disk.
    """
    kind = kind.upper()
    if kind not in TYPES:
        raise UsageError(f"--type {kind.lower()} is unknown", expected=", ".join(TYPES).lower())
    if out.suffix == ".gguf":
        raise UsageError(
            f"{out} names a file", expected="a folder, which also gets a model card",
            cure=f"give {out.with_suffix('')}",
        )  # fmt: skip
    if adapter_only and source.adapter is None:
        raise UsageError(f"{source.base} is no adapter", cure="leave out --adapter-only")
    if adapter_only and kind == "Q8_0":
        raise UsageError("an adapter is not quantized", expected="--type f32 or f16")
    opened = open_base(source.base, source.adapter)
    names = Names(opened.config)
    fused_qkv = names.gguf.fused_qkv and not split_qkv
    file = f"{out.name}{'-adapter' if adapter_only else ''}-{kind}.gguf"
    about = _about(source, opened, out.name)
    adapted = len(opened.adapted)
    if adapter_only:
        with new_folder(out) as folder:
            size = write_adapter(
                folder / file,
                opened.config,
                opened.updates,
                about,
                kind=kind,
                tied=bool(opened.tied),
                fused_qkv=fused_qkv,
            )
            write_card(folder, "gguf-adapter", source, opened, kind, scores=scores, file=file)
        return out / file, Written(out / file, size, kind, 0, adapted)
    rows = next(w.shape[0] for w in opened.weights if w.name == EMBEDDING)
    vocabulary = read_vocabulary(opened.path, rows)
    config = {**opened.config, "vocab_size": rows}
    tensors = plan(opened.take(), names, kind, fused_qkv=fused_qkv)
    check_space(out, sum(tensor.nbytes for tensor in tensors))
    with new_folder(out) as folder:
        size = write_model(
            folder / file, config, tensors, vocabulary, names, kind, about, progress
        )
        write_card(folder, "gguf", source, opened, f"GGUF {kind}", scores=scores, file=file)
    return out / file, Written(out / file, size, kind, 0, adapted)


def _about(source: Source, opened: Opened, name: str) -> About:
    recorded = opened.ecellm.get("base", {}).get("name")
    base = card.base_of(str(recorded or source.base), opened.path)
    licence = base.licence_id if base.licences else ""
    return About(name, licence, base.name, base.repo or "")
