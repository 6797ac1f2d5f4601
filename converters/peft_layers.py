"""Which layer of mlx-lm's model is which of Hugging Face's, and updates between them.

The paths are equal but for Phi's old layout, and for models whose output layer is the
embedding: there mlx-lm has one layer that acts at both ends, and Hugging Face has two
that share a weight, each with an adapter of its own. Such an adapter moves only if
both ends have the same update, transposed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import mlx.core as mx

from converters import phi_layout
from converters.adapter import LoraModule
from converters.architectures import Layout
from converters.base import EMBEDDING, HEAD, BaseModel, Layer, check_fit, check_known
from converters.errors import ConversionError
from converters.packing import same_bits
from converters.peft_config import PeftSettings


@dataclass(frozen=True)
class Moved:
    """Updates under Hugging Face's names.

    Attributes:
        modules: path → update.
        embeddings: paths that are embeddings.
        blocks: ``Wqkv`` path → ranks of the blocks of its b, where it is block-diagonal.
    """

    modules: dict[str, LoraModule]
    embeddings: frozenset[str]
    blocks: dict[str, list[int]]


def layers_in_peft(base: BaseModel, layout: Layout) -> dict[str, Layer]:
    """Every layer of Hugging Face's model that PEFT could adapt, by path."""
    layers = dict(base.modules)
    if base.shares_embedding and base.tied_in_peft:
        embedding = layers[EMBEDDING]
        layers[HEAD] = Layer("linear", embedding.out, embedding.width)
    return phi_layout.legacy_layers(layers) if layout == "legacy" else layers


def head_in_peft(layout: Layout) -> str:
    """Path of the output layer."""
    return phi_layout.HEAD if layout == "legacy" else HEAD


def to_hugging_face(
    modules: Mapping[str, LoraModule], base: BaseModel | None, layout: Layout
) -> Moved:
    """Move updates from mlx-lm's layers to Hugging Face's.

    Raises:
        ConversionError: they cannot be represented there.
    """
    embeddings = {name for name in modules if _is_embedding(name, base)}
    if embeddings and base is None:
        raise ConversionError(
            f"the adapter changes {', '.join(sorted(embeddings))}; give its base with --base, "
            "because it matters whether the output layer is tied to it."
        )
    _check_embeddings(embeddings, modules)
    moved = dict(modules)
    if base is not None and base.shares_embedding and EMBEDDING in modules:
        if not base.tied_in_peft:
            raise ConversionError(
                f"{base.name} ties its output layer in mlx-lm only; adapters on its embedding "
                "cannot be converted."
            )
        moved[HEAD] = _transposed(modules[EMBEDDING])
    if layout == "native":
        return Moved(moved, frozenset(embeddings), {})
    joined, blocks = _joined(moved, base)
    return Moved(joined, frozenset(map(phi_layout.legacy_name, embeddings)), blocks)


def from_hugging_face(
    modules: Mapping[str, LoraModule],
    base: BaseModel,
    layout: Layout,
    blocks: Mapping[str, list[int]],
    source: object,
) -> dict[str, LoraModule]:
    """Move updates from Hugging Face's layers to mlx-lm's.

    Raises:
        ConversionError: they do not fit the base, or mlx-lm cannot represent them.
    """
    moved = _split(modules, base, blocks) if layout == "legacy" else dict(modules)
    if base.shares_embedding and base.tied_in_peft:
        moved = _tied(moved, base)
    _check_embeddings({name for name in moved if _is_embedding(name, base)}, moved)
    check_fit(base, moved, source, peft=True)
    return moved


def check_targets(
    modules: Mapping[str, LoraModule],
    settings: PeftSettings,
    base: BaseModel,
    layout: Layout,
    source: object,
) -> None:
    """Prove that the tensors are of exactly the layers that PEFT would adapt.

    Raises:
        ConversionError: layers without tensors (PEFT would leave them at random), or
            tensors without a layer (it would ignore them); all are listed.
    """
    layers, head = layers_in_peft(base, layout), head_in_peft(layout)
    check_known(base, modules, source, known=layers)
    if settings.targets is None:
        return
    targeted = {
        name
        for name, layer in layers.items()
        if settings.matches(name, linear=layer.kind == "linear", head=head)
    }
    if settings.raw.get("ensure_weight_tying") and base.tied_in_peft:
        ends = {EMBEDDING, head} & layers.keys()
        targeted |= ends if ends & targeted else set()
    problems = [f"{name} is targeted and has no tensors" for name in layers if
                name in targeted and name not in modules]  # fmt: skip
    problems += [f"{name} has tensors and is not targeted" for name in modules
                 if name not in targeted]  # fmt: skip
    if problems:
        raise ConversionError(
            f"the tensors and the target_modules of {source} do not agree: "
            f"{'; '.join(problems)}; save or copy it again."
        )


def _is_embedding(name: str, base: BaseModel | None) -> bool:
    if base is not None and name in base.modules:
        return base.modules[name].kind == "embedding"
    return name.rsplit(".", 1)[-1] in ("embed_tokens", "wte")


def _check_embeddings(names: set[str], modules: Mapping[str, LoraModule]) -> None:
    if with_magnitude := sorted(n for n in names if n in modules and modules[n].m is not None):
        raise ConversionError(
            f"DoRA on the embedding {', '.join(with_magnitude)} cannot be converted: its "
            "magnitude is one per token in mlx-lm and one per dimension in PEFT; train it "
            "with LoRA, or without embeddings."
        )


def _transposed(module: LoraModule) -> LoraModule:
    """The same update on the output layer: (a b)ᵀ = bᵀ aᵀ."""
    return LoraModule(
        mx.contiguous(module.b.T), mx.contiguous(module.a.T), module.scale, module.alpha
    )


def _tied(modules: dict[str, LoraModule], base: BaseModel) -> dict[str, LoraModule]:
    ends = [name for name in (EMBEDDING, HEAD) if name in modules]
    if not ends:
        return modules
    if len(ends) == 2:
        head, wanted = modules[HEAD], _transposed(modules[EMBEDDING])
        if (
            head.m is None
            and head.scale == wanted.scale
            and same_bits(head.a, wanted.a)
            and same_bits(head.b, wanted.b)
        ):
            return {name: module for name, module in modules.items() if name != HEAD}
        what = f"different updates on {EMBEDDING} and {HEAD}"
    else:
        what = f"an update on {ends[0]} alone"
    raise ConversionError(
        f"the adapter has {what}, and {base.name} ties the two: mlx-lm has one layer for both, "
        "which needs one update for both (ensure_weight_tying in PEFT); train the adapter "
        "that way, or without these layers."
    )


def _split(
    modules: Mapping[str, LoraModule], base: BaseModel, blocks: Mapping[str, list[int]]
) -> dict[str, LoraModule]:
    moved: dict[str, LoraModule] = {}
    for name, module in modules.items():
        natives = phi_layout.native_names(name)
        if len(natives) == 1:
            moved[natives[0]] = module
            continue
        sizes = [base.modules[native].out for native in natives]
        ranks = blocks.get(name)
        for i, part in enumerate(phi_layout.split(module, sizes, ranks)):
            if ranks is None or ranks[i]:
                moved[natives[i]] = part
    return moved


def _joined(
    modules: Mapping[str, LoraModule], base: BaseModel | None
) -> tuple[dict[str, LoraModule], dict[str, list[int]]]:
    moved: dict[str, LoraModule] = {}
    blocks: dict[str, list[int]] = {}
    for name, module in modules.items():
        legacy = phi_layout.legacy_name(name)
        natives = phi_layout.native_names(legacy)
        if len(natives) == 1:
            moved[legacy] = module
        elif legacy not in moved:
            parts = [modules.get(native) for native in natives]
            sizes = _rows(natives, parts, base)
            moved[legacy], ranks = phi_layout.join(parts, sizes)
            if ranks is not None:
                blocks[legacy] = ranks
    return moved, blocks


def _rows(
    natives: tuple[str, ...], parts: list[LoraModule | None], base: BaseModel | None
) -> list[int]:
    if base is not None:
        return [base.modules[native].out for native in natives]
    if None in parts:
        missing = [n for n, part in zip(natives, parts, strict=True) if part is None]
        raise ConversionError(
            f"the adapter leaves {', '.join(missing)} alone; give its base with --base, whose "
            "rows Wqkv has too."
        )
    return [part.b.shape[1] for part in parts if part is not None]
