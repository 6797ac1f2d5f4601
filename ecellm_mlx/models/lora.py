"""LoRA on a loaded model: attach, save, load.

The layers and the files are mlx-lm's, so ``mlx_lm.generate --adapter-path`` takes
our adapters unchanged. Equation: y = W x + scale · B A dropout(x), with lora_a of
shape (in, r) and lora_b of shape (r, out). What mlx-lm leaves to chance is checked
here: a target that matches nothing, a tensor that is missing, another base.

Nothing is saved that could not come back as what was trained: ``attach`` refuses an
initialisation that is more than the adapter's own numbers, because loading puts those
on the untouched base; ``save`` reads what it wrote and compares it with the model.
Files are ``converters.mlx_adapter``'s business, initial numbers ``initialisations``'.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ecellm_mlx.device.backend import mx, nn, scalar, tree_flatten, tree_unflatten
from ecellm_mlx.errors import AdapterError, ConversionError, RecipeError
from ecellm_mlx.models import initialisations

from converters import mlx_adapter
from converters.adapter import LEAVES, Adapter, LoraModule, Shape
from converters.base import Blocks
from converters.names import natural
from converters.packing import same_bits

__all__ = [
    "ALL_LINEAR",
    "LEAVES",
    "AdapterInfo",
    "LoraSpec",
    "Shape",
    "adaptable",
    "attach",
    "blocks",
    "check_base",
    "detach",
    "load",
    "parameters",
    "pattern_key",
    "read_info",
    "resolve_targets",
    "restore",
    "save",
    "swap",
]

ALL_LINEAR = "all-linear"


@dataclass(frozen=True)
class LoraSpec:
    """Shape of an adapter. ``scale`` is the factor on B·A (alpha / rank, say).

    ``own`` holds the layers whose rank or scale is another one, by path.
    """

    rank: int
    scale: float
    dropout: float
    modules: tuple[str, ...]
    dora: bool = False
    own: Mapping[str, Shape] = field(default_factory=dict)

    def shape(self, module: str) -> Shape:
        """Rank and scale of the layer ``module``."""
        return self.own.get(module, Shape(self.rank, self.scale))


@dataclass(frozen=True)
class AdapterInfo:
    """Content of ``adapter_config.json``: the spec and our own section."""

    spec: LoraSpec
    ecellm: dict[str, Any] = field(default_factory=dict)


def adaptable(model: nn.Module) -> dict[str, nn.Module]:
    """Every linear and embedding layer by its path, in model order.

    A layer with an adapter keeps its path.
    """
    kinds = (nn.Linear, nn.QuantizedLinear, nn.Embedding, nn.QuantizedEmbedding)
    adapted = _adapted(model)
    layers = {name: _base(layer) for name, layer in adapted.items()} | {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, kinds) and name.rpartition(".")[0] not in adapted
    }
    return dict(sorted(layers.items(), key=lambda item: natural(item[0])))


def _adapted(model: nn.Module) -> dict[str, nn.Module]:
    """Every layer with an adapter by its path."""
    return {name: module for name, module in model.named_modules() if "lora_a" in module}


def _base(adapter: nn.Module) -> nn.Module:
    """The layer that an adapter sits on."""
    return adapter["linear"] if "linear" in adapter else adapter["embedding"]


def blocks(model: nn.Module) -> Blocks:
    """Where ``model`` keeps its blocks.

    Raises:
        AdapterError: not in a list that has a path.
    """
    first = model.layers[0]
    for name, module in model.named_modules():
        if module is first:
            return Blocks(name.rpartition(".")[0] + ".", len(model.layers))
    raise AdapterError("this architecture keeps its blocks where adapters cannot name them")


def resolve_targets(model: nn.Module, targets: list[str]) -> tuple[str, ...]:
    """Paths of the layers that ``targets`` name.

    A target matches a path that equals it or ends with ``.target``, as in PEFT;
    ``all-linear`` is every linear layer of the blocks, without the output head.

    Raises:
        RecipeError: some targets match nothing; lists all of them, and the names
            that exist.
    """
    layers = adaptable(model)
    chosen: set[str] = set()
    missing = []
    for target in targets:
        if target == ALL_LINEAR:
            linear = (nn.Linear, nn.QuantizedLinear)
            hits = [n for n, m in layers.items() if isinstance(m, linear) and ".layers." in n]
        else:
            hits = [n for n in layers if n == target or n.endswith("." + target)]
        if not hits:
            missing.append(target)
        chosen.update(hits)
    if missing:
        names = sorted({name.rsplit(".", 1)[-1] for name in layers})
        raise RecipeError(
            f"targets: {', '.join(map(repr, missing))} name no layer of this model",
            expected=", ".join([*names, ALL_LINEAR]),
            cure="correct targets",
        )
    return tuple(name for name in layers if name in chosen)


def pattern_key(patterns: Mapping[str, Any], module: str) -> str | None:
    """The first of ``patterns`` that names ``module``, as PEFT matches them.

    A pattern is a name or a regular expression for the end of a path, from a dot on:
    ``q_proj``, ``layers.0.mlp.up_proj``, ``[kv]_proj``.
    """
    return next((key for key in patterns if re.match(rf"(.*\.)?({key})$", module)), None)


def attach(
    model: nn.Module, spec: LoraSpec, *, seed: int | None = None, init: str = "peft"
) -> None:
    """Put new adapters on ``spec.modules``, freeze everything else.

    Args:
        model: a base model; changed in place.
        spec: what to attach.
        seed: seeds the initial weights.
        init: a name of ``initialisations.REGISTRY``.

    Raises:
        AdapterError: the initialisation changed the base or what the model computes, so
            that the adapter alone could not bring back what will be trained.
    """
    if seed is not None:
        mx.random.seed(seed)
    layers = adaptable(model)
    before = _digests({name: layers[name] for name in spec.modules})
    adapters = _put(model, spec, initialisations.REGISTRY[init].draw)
    after = _digests({name: _base(layer) for name, layer in adapters.items()})
    faults = {
        "the base's weights": [name for name in before if after[name] != before[name]],
        "the model's answers": [name for name, layer in adapters.items() if _acts(layer)],
    }
    for what, names in faults.items():
        if names:
            raise AdapterError(
                f"init={init} changes {what} under {', '.join(names[:3])}"
                f"{' …' if len(names) > 3 else ''}, which an adapter's file cannot say, so "
                "that what is trained could not be loaded again",
                cure="train with another init",
            )


def _put(
    model: nn.Module, spec: LoraSpec, draw: initialisations.Draw | None = None
) -> dict[str, nn.Module]:
    """mlx-lm's adapter layers in the place of ``spec.modules``, with what ``draw`` gives."""
    from mlx_lm.tuner.dora import DoRAEmbedding, DoRALinear  # noqa: TID251
    from mlx_lm.tuner.lora import LoRAEmbedding, LoRALinear  # noqa: TID251

    layers = adaptable(model)
    model.freeze()
    adapters: dict[str, nn.Module] = {}
    for name in spec.modules:
        layer = layers[name]
        embedding = not isinstance(layer, nn.Linear | nn.QuantizedLinear)
        if embedding:
            kind = DoRAEmbedding if spec.dora else LoRAEmbedding
        else:
            kind = DoRALinear if spec.dora else LoRALinear
        shape = spec.shape(name)
        adapter = kind.from_base(layer, r=shape.rank, dropout=spec.dropout, scale=shape.scale)
        if draw is not None:
            adapter.lora_a, adapter.lora_b = draw(adapter.lora_a, adapter.lora_b, embedding)
        adapters[name] = adapter
    model.update_modules(tree_unflatten(list(adapters.items())))
    mx.eval(model.trainable_parameters())
    return adapters


def _digests(layers: Mapping[str, nn.Module]) -> dict[str, list[int]]:
    """Sums over the bits of each layer's tensors, modulo 2³².

    Any change of a number shows, and a change of many but for a chance of 2⁻³². The
    weights are read once, at the speed of memory: some 20 ms for a 7B model in 4 bits on a
    GPU.
    """
    sums: dict[str, list[mx.array]] = {}
    for name, layer in layers.items():
        flat = [array.reshape(-1) for _, array in tree_flatten(layer.parameters())]
        words = [mx.uint32 if array.nbytes % 4 == 0 else mx.uint16 for array in flat]
        sums[name] = [mx.sum(a.view(word)) for a, word in zip(flat, words, strict=True)]
    mx.eval(sums)
    return {name: [int(scalar(total)) for total in totals] for name, totals in sums.items()}


def _acts(adapter: nn.Module) -> bool:
    """Whether a new adapter changes what its layer computes: B A is not zero."""
    return bool((mx.any(adapter.lora_a) & mx.any(adapter.lora_b)).item())


def detach(model: nn.Module) -> None:
    """Remove all adapters; the base is as it was before ``attach``."""
    model.update_modules(
        tree_unflatten([(name, _base(layer)) for name, layer in _adapted(model).items()])
    )


def parameters(model: nn.Module) -> dict[str, mx.array]:
    """The adapter's tensors by name, as they go into ``adapters.safetensors``."""
    return {
        name: array
        for name, array in tree_flatten(model.trainable_parameters())
        if name.rsplit(".", 1)[-1] in LEAVES
    }


def save(folder: Path, model: nn.Module, spec: LoraSpec, ecellm: dict[str, Any]) -> None:
    """Write the adapter of ``model`` into an existing folder in mlx-lm's format.

    Args:
        folder: where the files go.
        model: the model as it was trained.
        spec: what was attached.
        ecellm: our own section of ``adapter_config.json``.

    Raises:
        AdapterError: the files do not hold what was trained, bit for bit.
    """
    tensors = parameters(model)
    modules = {}
    for name in dict.fromkeys(name.rpartition(".")[0] for name in tensors):
        a, b, m = (tensors.get(f"{name}.{leaf}") for leaf in LEAVES)
        assert a is not None
        assert b is not None
        shape = spec.shape(name)
        alpha = shape.alpha if name in spec.own else ecellm.get("alpha")
        modules[name] = LoraModule(a, b, shape.scale, alpha, m)
    rslora = bool(ecellm.get("rslora", False))
    mlx_adapter.write_mlx(folder, Adapter(modules, spec.dropout, rslora, ecellm), blocks(model))
    _prove(folder, model, spec)


def _prove(folder: Path, model: nn.Module, spec: LoraSpec) -> None:
    """Read the adapter in ``folder`` as any loader would, and compare it with ``model``.

    Raises:
        AdapterError: something trained is not in the files, or differs from them.
    """
    trained = dict(tree_flatten(model.trainable_parameters()))
    with _as_adapter_errors():
        config = mlx_adapter.read_config(folder)
        modules = mlx_adapter.read_mlx(folder).modules
    tensors = mlx_adapter.tensors_of(modules)
    wrong = [n for n in trained if n not in tensors or not same_bits(tensors[n], trained[n])]
    wrong += [
        f"{name}.scale"
        for name, layer in _adapted(model).items()
        if name not in modules or modules[name].scale != layer.scale
    ]
    named = config.named(adaptable(model), blocks(model))
    wrong += sorted({*named} ^ {*spec.modules})
    if wrong:
        raise AdapterError(
            f"{folder} does not hold what was trained: {', '.join(wrong[:10])}"
            f"{' …' if len(wrong) > 10 else ''} would be lost or changed",
            cure="report this",
        )


def read_info(folder: Path, model: nn.Module) -> AdapterInfo:
    """Read ``adapter_config.json`` and resolve its keys against ``model``.

    Raises:
        AdapterError: the file is damaged or of an unknown kind.
    """
    with _as_adapter_errors():
        config = mlx_adapter.read_config(folder)
    modules = config.named(adaptable(model), blocks(model))
    spec = LoraSpec(config.rank, config.scale, config.dropout, modules, config.dora, config.own)
    return AdapterInfo(spec, config.ecellm)


@contextlib.contextmanager
def _as_adapter_errors() -> Iterator[None]:
    try:
        yield
    except ConversionError as error:
        raise error.retold(AdapterError) from None


def load(model: nn.Module, folder: Path, *, base: str) -> AdapterInfo:
    """Attach the adapter in ``folder`` to ``model``, every tensor of it.

    Args:
        model: the base model; changed in place.
        folder: an adapter in mlx-lm's format.
        base: fingerprint of the base; an adapter made by us for another is refused.

    Raises:
        AdapterError: wrong base, or tensors that are missing, unknown or of another
            shape; all of them are listed.
    """
    info = read_info(folder, model)
    check_base(folder, info.ecellm, base)
    _put(model, info.spec)
    try:
        tensors = _fitting(model, folder)
    except AdapterError:
        detach(model)
        raise
    dtype = next(iter(parameters(model).values())).dtype
    model.load_weights([(n, t.astype(dtype)) for n, t in tensors.items()], strict=False)
    model.eval()
    # Not the base: it may be far larger than memory while it is fused.
    mx.eval(parameters(model))
    return info


def restore(model: nn.Module, folder: Path) -> None:
    """Put the tensors in ``folder`` back into the adapter that ``model`` has, bit for bit.

    Raises:
        AdapterError: they are of another adapter.
    """
    model.load_weights(list(_fitting(model, folder).items()), strict=False)


def _fitting(model: nn.Module, folder: Path) -> dict[str, mx.array]:
    """The tensors in ``folder``, which are exactly those of the adapter on ``model``."""
    expected = {name: array.shape for name, array in parameters(model).items()}
    with _as_adapter_errors():
        return mlx_adapter.tensors_of(mlx_adapter.read_mlx(folder, expected).modules)


def swap(model: nn.Module, folder: Path | None, *, base: str) -> AdapterInfo | None:
    """Put the adapter in ``folder`` in the place of the present one; the base stays.

    Args:
        model: the base model, with or without an adapter; changed in place.
        folder: an adapter in mlx-lm's format; None leaves the base alone.
        base: fingerprint of the base.

    Raises:
        AdapterError: as ``load`` does; the present adapter is still there then.
    """
    present = list(_adapted(model).items())
    detach(model)
    if folder is None:
        return None
    try:
        return load(model, folder, base=base)
    except AdapterError:
        detach(model)
        model.update_modules(tree_unflatten(present))
        raise


def check_base(folder: Path, ecellm: dict[str, Any], base: str) -> None:
    """Refuse the adapter in ``folder`` if it names another base than ``base``.

    Raises:
        AdapterError: it does.
    """
    trained_on = ecellm.get("base", {})
    if trained_on.get("fingerprint", base) != base:
        raise AdapterError(
            f"the adapter {folder} was trained on another base model",
            expected=str(trained_on.get("name", "unknown")),
            cure="give that model with --model",
        )
