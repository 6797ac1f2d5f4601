"""What is saved is what was trained: it comes back in a new process, and in PEFT.

Every initialisation, kind of adapter and kind of base is trained for a few steps, saved,
and loaded by a process that knows the files only: the logits must be the same to the bit.
"""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest

from ecellm_mlx.device.backend import mx, nn, optim, tree_flatten
from ecellm_mlx.errors import AdapterError
from ecellm_mlx.export import peft, proof, write
from ecellm_mlx.models import initialisations, loading, lora
from ecellm_mlx.models.initialisations import REGISTRY, Initialisation
from ecellm_mlx.training import adapter
from ecellm_mlx.training.recipe import Recipe, from_values

from converters import mlx_adapter

TOKENS = mx.array([[5, 400, 77, 1234, 9, 31, 17, 2000]])
KINDS: dict[str, dict[str, Any]] = {
    "lora": {"rank": 4, "alpha": 8},
    "dora": {"rank": 4, "alpha": 6, "dora": True},
    "rslora": {"rank": 3, "alpha": 5, "rslora": True},
    # Scales 1, 2 and 4/3: some factors between them lose a bit.
    "patterns": {
        "rank": 4,
        "alpha": 4,
        "rank_pattern": {"[kv]_proj": 2, r"layers\.0\.self_attn\.q_proj": 6},
        "alpha_pattern": {r"layers\.1\.self_attn\.q_proj": 16 / 3},
    },
}
# Tied and untied output layers, quantized on disk and at load.
BASES = ("tied", "untied", "phi", "quantized", "quantized at load")


@dataclass(frozen=True)
class Trained:
    """An adapter after some steps, and the logits that it gave then."""

    folder: Path
    base: Path
    bits: int
    logits: np.ndarray


@pytest.fixture(scope="module")
def bases(
    tiny_models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("quantized") / "base"
    write.quantize(str(tiny_models["llama"]), folder, bits=4, group_size=32, measure=False)
    return {
        "tied": tiny_models["llama"],
        "untied": tiny_models["mistral"],
        "phi": tiny_models["phi"],
        "quantized": folder,
        "quantized at load": tiny_models["mistral"],
    }


def recipe_of(base: str, kind: str, init: str) -> Recipe:
    """All layers of the blocks and both ends, where the kind allows them."""
    targets = ["all-linear"]
    if base in ("untied", "phi", "quantized at load"):
        targets.append("lm_head")
    if kind != "dora":
        # PEFT's magnitudes of an embedding are others.
        targets.append("embed_tokens")
    bits = 4 if base == "quantized at load" else 0
    return from_values({**KINDS[kind], "targets": targets, "init": init, "bits": bits})


def train(folder: Path, loaded: loading.LoadedModel, recipe: Recipe) -> Trained:
    """Three steps of AdamW on one row: large ones, so that every tensor moves.

    Not so large that a model is made which float32 can no longer compute to 1e-4.
    """
    model = loaded.model
    spec = adapter.spec_for(model, recipe)
    lora.attach(model, spec, seed=recipe.seed, init=recipe.init)
    optimizer = optim.AdamW(learning_rate=0.01)

    def loss(tokens: mx.array) -> mx.array:
        return nn.losses.cross_entropy(model(tokens[:, :-1]), tokens[:, 1:]).mean()

    for _ in range(3):
        _, gradients = nn.value_and_grad(model, loss)(TOKENS)
        optimizer.update(model, gradients)
        mx.eval(model.trainable_parameters(), optimizer.state)
    folder.mkdir(parents=True)
    about = {
        "name": str(loaded.path),
        "model_type": loaded.config["model_type"],
        "fingerprint": loaded.fingerprint,
        "layers": len(model.layers),
    }
    section = {"base": about, "alpha": recipe.alpha, "rslora": recipe.rslora}
    lora.save(folder, model, spec, section)
    logits = np.array(model.eval()(TOKENS))
    lora.detach(model)
    return Trained(folder, loaded.path, recipe.bits, logits)


@pytest.fixture(scope="module")
def trained(
    bases: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str, str, str], Trained]:
    """``trained(base, kind, init)``: such an adapter, made once."""
    root = tmp_path_factory.mktemp("trained")
    loaded: dict[str, loading.LoadedModel] = {}
    made: dict[Path, Trained] = {}

    def get(base: str, kind: str, init: str) -> Trained:
        folder = root / base / f"{kind}-{init}"
        recipe = recipe_of(base, kind, init)
        if base not in loaded:
            loaded[base] = loading.load(bases[base], bits=recipe.bits)
        if folder not in made:
            made[folder] = train(folder, loaded[base], recipe)
        return made[folder]

    return get


# Run with a JSON object: base → bits → adapters; saves the logits beside each adapter.
LOAD = f"""
import json, sys
from pathlib import Path
import numpy as np
from ecellm_mlx.device.backend import mx
from ecellm_mlx.models import loading, lora
for base, by_bits in json.load(sys.stdin).items():
    for bits, adapters in by_bits.items():
        loaded = loading.load(base, bits=int(bits))
        for adapter in adapters:
            lora.swap(loaded.model, Path(adapter), base=loaded.fingerprint)
            np.save(adapter + ".npy", np.array(loaded.model(mx.array({TOKENS.tolist()}))))
"""


def check_in_a_new_process(adapters: list[Trained]) -> None:
    """All of them give the logits there that they gave after training."""
    orders: dict[str, dict[str, list[str]]] = {}
    for each in adapters:
        by_bits = orders.setdefault(str(each.base), {})
        by_bits.setdefault(str(each.bits), []).append(str(each.folder))
    command = [sys.executable, "-c", LOAD]
    subprocess.run(command, input=json.dumps(orders), text=True, check=True)
    loaded = {each.folder: np.load(f"{each.folder}.npy") for each in adapters}
    assert [
        each.folder for each in adapters if not np.array_equal(each.logits, loaded[each.folder])
    ] == []


def test_a_new_process_gets_the_logits_that_were_trained(
    trained: Callable[[str, str, str], Trained],
) -> None:
    check_in_a_new_process(
        [
            trained("tied", "lora", "peft"),
            trained("tied", "rslora", "mlx-lm"),
            trained("quantized at load", "patterns", "peft"),
            trained("quantized at load", "dora", "mlx-lm"),
        ]
    )


@pytest.mark.proof
def test_a_new_process_gets_them_for_every_initialisation_kind_and_base(
    trained: Callable[[str, str, str], Trained],
) -> None:
    adapters = [trained(*case) for case in itertools.product(BASES, KINDS, REGISTRY)]
    check_in_a_new_process(adapters)
    # They are different models: of one initialisation, no kind is like another.
    for one, other in itertools.pairwise(adapters[:: len(REGISTRY)]):
        if one.base == other.base:
            assert not np.array_equal(one.logits, other.logits), one.folder


@pytest.mark.proof
@pytest.mark.parametrize("base", BASES)
def test_peft_gets_the_same_logits(
    base: str, trained: Callable[[str, str, str], Trained], tmp_path: Path
) -> None:
    for kind, init in itertools.product(KINDS, REGISTRY):
        item = trained(base, kind, init)
        exported = peft.to_peft(item.folder, tmp_path / f"{kind}-{init}", base=str(item.base))
        compared = proof.compare_logits(item.folder, exported, str(item.base))
        assert compared.equal, (kind, init, compared)
        assert compared.effect > 1e-2, (kind, init, compared)


def test_every_initialisation_has_its_place() -> None:
    assert get_args(initialisations.Init) == tuple(REGISTRY)


@pytest.fixture
def attach(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Attach an adapter with an initialisation that someone has just added."""
    model = loading.load(tiny).model
    spec = lora.LoraSpec(4, 2.0, 0.0, lora.resolve_targets(model, ["q_proj", "embed_tokens"]))
    layers = lora.adaptable(model)

    def run(change: Callable[[nn.Module, mx.array], None]) -> None:
        names: Iterator[str] = iter(spec.modules)

        def pissa(a: mx.array, b: mx.array, embedding: bool) -> tuple[mx.array, mx.array]:
            layer = layers[next(names)]
            weight = layer.weight if embedding else layer.weight.T
            u, s, vt = mx.linalg.svd(weight[:64], stream=mx.cpu)
            rank = a.shape[1]
            a = mx.zeros_like(a)
            a[: len(u)] = u[:, :rank] * s[:rank] ** 0.5 / 2
            b = s[:rank, None] ** 0.5 * vt[:rank]
            change(layer, (a @ b) if embedding else (a @ b).T)
            return a, b

        monkeypatch.setitem(REGISTRY, "pissa", Initialisation(pissa, "pissa"))
        lora.attach(model, spec, seed=0, init="pissa")

    return run


def test_an_initialisation_that_changes_the_base_is_refused(
    attach: Callable[..., None],
) -> None:
    """It would train, be saved, and come back as another model."""

    def replaced(layer: nn.Module, update: mx.array) -> None:
        layer.weight = layer.weight - 2.0 * update

    with pytest.raises(AdapterError) as caught:
        attach(replaced)
    message = str(caught.value)
    assert "init=pissa changes the base's weights under model.embed_tokens" in message
    assert message.endswith("could not be loaded again; train with another init.")


def test_an_initialisation_that_changes_the_base_in_place_is_refused(
    attach: Callable[..., None],
) -> None:
    def in_place(layer: nn.Module, update: mx.array) -> None:
        layer.weight -= 2.0 * update

    with pytest.raises(AdapterError, match="changes the base's weights"):
        attach(in_place)


def test_an_initialisation_that_does_not_start_from_the_base_is_refused(
    attach: Callable[..., None],
) -> None:
    with pytest.raises(AdapterError, match="init=pissa changes the model's answers under"):
        attach(lambda _layer, _update: None)


@pytest.fixture
def adapted(tiny: Path) -> tuple[nn.Module, lora.LoraSpec]:
    model = loading.load(tiny).model
    spec = lora.LoraSpec(4, 2.0, 0.0, lora.resolve_targets(model, ["q_proj"]))
    lora.attach(model, spec, seed=0)
    return model, spec


def test_trained_numbers_that_no_adapter_holds_are_not_lost(
    adapted: tuple[nn.Module, lora.LoraSpec], tmp_path: Path
) -> None:
    model, spec = adapted
    model.model.norm.unfreeze()
    with pytest.raises(AdapterError, match=r"does not hold what was trained: model\.norm\.w"):
        lora.save(tmp_path, model, spec, {})


@pytest.mark.parametrize("leaf", ["lora_a", "lora_b"])
def test_a_writer_that_changes_a_bit_is_found_out(
    leaf: str,
    adapted: tuple[nn.Module, lora.LoraSpec],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pack = mlx_adapter.pack

    def careless(modules: Any) -> Any:
        packed = pack(modules)
        name = next(name for name in packed.tensors if name.endswith(leaf))
        packed.tensors[name] = packed.tensors[name] + 1e-6
        return packed

    monkeypatch.setattr(mlx_adapter, "pack", careless)
    model, spec = adapted
    with pytest.raises(AdapterError, match=rf"does not hold what was trained: .*{leaf}"):
        lora.save(tmp_path, model, spec, {})


def test_another_scale_or_another_layer_is_found_out(
    adapted: tuple[nn.Module, lora.LoraSpec], tmp_path: Path
) -> None:
    model, spec = adapted
    other = lora.LoraSpec(4, 1.0, 0.0, spec.modules[:1])
    with pytest.raises(AdapterError) as caught:
        lora.save(tmp_path, model, other, {})
    assert "model.layers.0.self_attn.q_proj.scale" in str(caught.value)
    assert "model.layers.1.self_attn.q_proj" in str(caught.value)
    assert not [n for n, _ in tree_flatten(model.trainable_parameters()) if "norm" in n]
