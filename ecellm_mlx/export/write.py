"""Write whole models: fused, quantized, or in the layout of Hugging Face.

All three are one walk over a base's weights (``export.weights``) with a choice for each of how
it is stored (``converters.merged``), into a folder that appears only when it is whole.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ecellm_mlx.data.prompts import frame_for
from ecellm_mlx.device.backend import mx
from ecellm_mlx.errors import UsageError
from ecellm_mlx.export import card, card_text, divergence
from ecellm_mlx.export.weights import Opened, open_base
from ecellm_mlx.files import check_space, new_folder, write_json
from ecellm_mlx.models import loading, registry
from ecellm_mlx.models.adapter_files import CONFIG_FILE, base_name, folder_of
from ecellm_mlx.models.fingerprint import base_fingerprint
from ecellm_mlx.models.folder import CARD_FILE, copy_companions
from ecellm_mlx.models.source import SOURCE

from converters import architectures, merged
from converters.merged import Weight
from converters.shards import FLOATS, MAX_SHARD_BYTES, Part, Progress, write_model

DEFAULT_GROUP_SIZE = 64
SMALL_GROUP_SIZE = 32
GROUP_SIZES = (32, 64, 128)
BITS = (4, 8)
# One step of precision up, for the layers that carry the fine-tune; 0 is unquantized.
FINER = {4: 8, 8: 0}


@dataclass(frozen=True)
class Written:
    """A model folder that was written. ``divergence`` is None if it was not measured."""

    path: Path
    size_bytes: int
    dtype: str
    bits: int
    adapted_modules: int
    divergence: divergence.Divergence | None = None

    def to_dict(self) -> dict[str, Any]:
        """For ``--json``."""
        return {
            "path": str(self.path),
            "size_gb": round(self.size_bytes / 1e9, 3),
            "dtype": self.dtype,
            "bits": self.bits or None,
            "adapted_modules": self.adapted_modules,
            "divergence": self.divergence.to_dict() if self.divergence else None,
        }


@dataclass(frozen=True)
class Source:
    """What is exported: a base, and an adapter on it unless it is a model as it is."""

    base: str
    adapter: Path | None

    @classmethod
    def find(cls, source: str, base: str | None) -> Source:
        """Tell an adapter (or its run) from a model folder or a registry name.

        Raises:
            AdapterError, ModelError: it is neither, or the base is not known.
        """
        path = Path(source)
        is_model = (path / "config.json").is_file() or source in registry.REGISTRY
        if base is None and is_model and not (path / CONFIG_FILE).exists():
            return cls(source, None)
        folder = folder_of(source)
        return cls(base or base_name(folder), folder)


def fuse(
    adapter: str | Path,
    out: Path,
    *,
    base: str | None = None,
    bits: int = 0,
    keep_adapted: bool = False,
    dtype: str | None = None,
    measure: bool = True,
    scores: tuple[dict[str, Any], ...] = (),
    max_shard_bytes: int = MAX_SHARD_BYTES,
    progress: Progress = lambda _done, _total: None,
) -> Written:
    """Fuse an adapter into its base as an MLX model.

    Args:
        adapter: folder or run.
        out: folder that does not exist yet.
        base: the adapter's own by default.
        bits: 4 or 8 quantizes; layers that are quantized already and carry no adapter
            stay bit for bit as they are. 0 de-quantizes everything.
        keep_adapted: store adapted layers one step finer than ``bits`` (8 for 4,
            unquantized for 8).
        dtype: float type; the base's by default.
        measure: compare the answers of a quantized result with the unfused model's.
        scores: ``metrics.json`` of evaluations, for the model card.

    Raises:
        UsageError: contradictory choices.
        ModelError, AdapterError, ConversionError: damaged or unfit files, a full disk.
    """
    folder = folder_of(adapter)
    if keep_adapted and not bits:
        raise UsageError(
            "--keep-adapted says nothing without --quantize", cure="give --quantize 4 or 8"
        )
    source = Source(base or base_name(folder), folder)
    return _write_mlx(
        source, out, bits, keep_adapted, dtype, measure, scores, None, max_shard_bytes, progress
    )


def quantize(
    model: str,
    out: Path,
    *,
    bits: int,
    group_size: int | None = None,
    measure: bool = True,
    progress: Progress = lambda _done, _total: None,
) -> Written:
    """Write a quantized copy of a model.

    Raises:
        UsageError: bits that MLX does not know.
        ModelError, ConversionError: damaged files, a full disk.
    """
    if group_size not in (None, *GROUP_SIZES):
        raise UsageError(f"cannot group {group_size} weights", expected="32, 64 or 128")
    source = Source(model, None)
    return _write_mlx(
        source, out, bits, False, None, measure, (), group_size, MAX_SHARD_BYTES, progress
    )


def export_hf(
    source: Source,
    out: Path,
    *,
    dtype: str | None = None,
    scores: tuple[dict[str, Any], ...] = (),
    max_shard_bytes: int = MAX_SHARD_BYTES,
    progress: Progress = lambda _done, _total: None,
) -> Written:
    """Write a float model that transformers loads, an adapter fused into it.

    Raises:
        ModelError, AdapterError, ConversionError: damaged or unfit files, an
            architecture with another layout, a full disk.
    """
    opened = open_base(source.base, source.adapter)
    architectures.exported_to_hf(str(opened.config["model_type"]))
    dtype = dtype or opened.stored_dtype
    adapted = len(opened.adapted)
    parts = [merged.plain(weight, FLOATS[dtype]) for weight in opened.take()]
    check_space(out, sum(part.nbytes for part in parts))
    config = merged.clean_config(opened.config, dtype=dtype, tied=opened.tied)
    with new_folder(out) as folder:
        size = write_model(
            folder,
            _drain(parts),
            framework="pt",
            max_shard_bytes=max_shard_bytes,
            progress=progress,
        )
        write_json(folder / "config.json", config)
        copy_companions(opened.path, folder)
        write_card(folder, "hf", source, opened, dtype, scores=scores)
    return Written(out, size, dtype, 0, adapted)


def _write_mlx(
    source: Source,
    out: Path,
    bits: int,
    keep_adapted: bool,
    dtype: str | None,
    measure: bool,
    scores: tuple[dict[str, Any], ...],
    group_size: int | None,
    max_shard_bytes: int,
    progress: Progress,
) -> Written:
    if bits not in (0, *BITS):
        raise UsageError(f"cannot quantize to {bits} bits", expected="4 or 8")
    opened = open_base(source.base, source.adapter)
    dtype = dtype or opened.stored_dtype
    adapted = len(opened.adapted)
    groups = group_size or opened.group_size or DEFAULT_GROUP_SIZE
    entries: dict[str, dict[str, Any]] = {}
    parts = []
    for weight in opened.take():
        part, entry = _stored(weight, bits, keep_adapted, groups, FLOATS[dtype])
        parts.append(part)
        if entry:
            entries[weight.module] = entry
    check_space(out, sum(part.nbytes for part in parts))
    config = merged.clean_config(opened.config, dtype=dtype, tied=opened.tied)
    if entries:
        # Each layer by name, so that no reader has to guess; mlx-lm also wants defaults.
        default = {"group_size": groups, "bits": bits, "mode": "affine"}
        own = {name: entry for name, entry in entries.items() if entry != default}
        config["quantization"] = {**default, **own}
    with new_folder(out) as folder:
        size = write_model(
            folder,
            _drain(parts),
            framework="mlx",
            max_shard_bytes=max_shard_bytes,
            progress=progress,
        )
        write_json(folder / "config.json", config)
        copy_companions(opened.path, folder)
        difference = _measure(source, folder) if bits and measure else None
        stored = f"{dtype}, quantized to {bits} bits" if bits else dtype
        write_card(folder, "mlx", source, opened, stored, scores=scores, difference=difference)
    return Written(out, size, dtype, bits, adapted, difference)


def _stored(
    weight: Weight, bits: int, keep_adapted: bool, group_size: int, dtype: mx.Dtype
) -> tuple[Part, dict[str, Any] | None]:
    """How a weight is stored, and its entry under ``quantization``."""
    if bits and weight.stored:
        return merged.as_stored(weight), weight.stored.settings
    if keep_adapted and weight.adapted:
        bits = FINER[bits]
    fits = [g for g in (group_size, SMALL_GROUP_SIZE) if weight.shape[-1] % g == 0]
    if not bits or not weight.quantizable or not fits:
        return merged.plain(weight, dtype), None
    entry = {"group_size": fits[0], "bits": bits, "mode": "affine"}
    return merged.quantized(weight, bits, fits[0], dtype), entry


def _drain(parts: list[Part]) -> Iterator[Part]:
    while parts:
        yield parts.pop(0)


def _measure(source: Source, result: Path) -> divergence.Divergence:
    """Compare the model in ``result`` with the unfused one, one loaded at a time."""
    base = loading.load(source.base)
    rows = divergence.sample_rows(base.tokenizer, base.frame)
    plain = None
    if source.adapter:
        plain = divergence.log_probabilities(base.model, rows)
        base.use_adapter(source.adapter)
    right = divergence.log_probabilities(base.model, rows)
    del base
    gc.collect()
    other = divergence.log_probabilities(loading.load(result).model, rows)
    return divergence.compare(right, other, plain)


def write_card(
    folder: Path,
    kind: str,
    source: Source,
    opened: Opened,
    stored: str,
    *,
    scores: tuple[dict[str, Any], ...] = (),
    difference: divergence.Divergence | None = None,
    file: str = "",
) -> None:
    """Write the model card, and the notice that Llama 2's licence asks for."""
    recorded = opened.ecellm.get("base", {}).get("name")
    base = card.base_of(str(recorded or source.base), opened.path)
    facts = card.Provenance(
        kind=kind,
        base=base,
        frame=frame_for(str(opened.config["model_type"])),
        stored=stored,
        ecellm=opened.ecellm,
        job=card.read_job(source.adapter) if source.adapter else {},
        divergence=difference.to_dict() if difference else None,
        scores=scores,
        file=file,
    )
    (folder / CARD_FILE).write_text(card_text.render(facts), encoding="utf-8")
    if base.licence_id == card.LLAMA_2 and not (folder / "NOTICE").exists():
        (folder / "NOTICE").write_text(card.LLAMA_2_NOTICE, encoding="utf-8")
    # A model is known by its weights: the origin travels with it.
    write_json(
        folder / SOURCE,
        {
            "name": base.name,
            "repo": base.repo,
            "license": base.licence_id if base.licences else None,
            "base_fingerprint": base_fingerprint(opened.path),
        },
    )
