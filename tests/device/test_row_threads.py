"""Rows on several threads: the loss and gradient of the batch, the same bits every time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ecellm_mlx import device, sample
from ecellm_mlx.data import batches, encoding, rows
from ecellm_mlx.data.batches import Batch
from ecellm_mlx.device import runtime
from ecellm_mlx.device.backend import mx, nn, tree_flatten
from ecellm_mlx.device.cpu import Cpu
from ecellm_mlx.device.cpu import cores as cores_module
from ecellm_mlx.device.cpu.parts import Part, cut
from ecellm_mlx.device.cpu.rows import RowThreads, replica
from ecellm_mlx.device.protocol import LossAndGradient
from ecellm_mlx.models import loading, lora
from ecellm_mlx.training import dropout, loss
from ecellm_mlx.training.adapter import recompute_blocks

DROPOUT = 0.3


@pytest.fixture(params=["llama", "phi"])
def base(request: pytest.FixtureRequest, tiny_models: dict[str, Path]) -> loading.LoadedModel:
    loaded = loading.load(tiny_models[request.param])
    spec = lora.LoraSpec(4, 2.0, 0.0, lora.resolve_targets(loaded.model, ["all-linear"]))
    lora.attach(loaded.model, spec, seed=0)
    # B is zero at first, and so would be most of the gradient.
    weights = flat(loaded.model.trainable_parameters())
    drawn = [(name, 0.05 * mx.random.normal(array.shape)) for name, array in weights.items()]
    loaded.model.load_weights(drawn, strict=False)
    mx.eval(loaded.model.parameters())
    return loaded


@pytest.fixture
def batch(base: loading.LoadedModel) -> Batch:
    """Seven real rows of very different lengths."""
    chosen = rows.load(sample.folder() / "train.jsonl")[::60][:7]
    kept = encoding.encode_rows(chosen, base.tokenizer, base.frame, 512).kept
    return batches.collate(kept, range(len(kept)), 0)


def gradient_of(model: nn.Module, p: float = 0.0) -> LossAndGradient:
    """Loss and gradient as a training step has them computed."""
    dropout.attach(model, p)
    return Cpu().value_and_grad(model, loss.negative_log_likelihood, dropout.AdapterMasks)


def loss_of(model: nn.Module) -> Callable[[Any], mx.array]:
    """The loss as validation has it computed."""
    return Cpu().loss(model, loss.negative_log_likelihood)


def threads(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    monkeypatch.setattr(runtime, "host_threads", lambda: count)


def flat(tree: Any) -> dict[str, mx.array]:
    return dict(tree_flatten(tree))


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("count", [2, 3])
def test_it_is_the_loss_and_gradient_of_the_whole_batch(
    count: int,
    recompute: bool,
    base: loading.LoadedModel,
    batch: Batch,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = base.model
    model.train()
    expected, whole = nn.value_and_grad(model, loss.negative_log_likelihood)(model, batch)
    mx.eval(expected, whole)
    if recompute:
        recompute_blocks(model)
    threads(monkeypatch, count)
    value, gradient = gradient_of(model)(batch, 1)
    assert value.item() == pytest.approx(expected.item(), rel=1e-5)
    for name, array in flat(whole).items():
        largest = mx.abs(array).max().item()
        assert largest > 0, name
        assert mx.abs(flat(gradient)[name] - array).max().item() < 2e-5 * largest, name
    assert loss_of(model)(batch).item() == pytest.approx(expected.item(), rel=1e-5)


def test_dropout_and_all_give_the_same_bits_every_time(
    base: loading.LoadedModel, batch: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads(monkeypatch, 2)
    compute = gradient_of(base.model, DROPOUT)
    value, gradient = compute(batch, 5)
    for attempt in range(25):
        again, other = compute(batch, 5)
        assert again.item() == value.item(), attempt
        for name, array in flat(gradient).items():
            assert mx.array_equal(array, flat(other)[name]), (attempt, name)
    assert compute(batch, 6)[0].item() != value.item()
    assert loss_of(base.model)(batch).item() != value.item()


def test_masks_are_those_of_the_row_on_any_number_of_threads(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The output head's too, whose inputs are the supervised positions of all rows."""
    computed = []
    for count in (1, 2, 3):
        base = loading.load(tiny)
        targets = lora.resolve_targets(base.model, ["all-linear", "embed_tokens"])
        lora.attach(base.model, lora.LoraSpec(4, 2.0, 0.0, targets), seed=0)
        weights = flat(base.model.trainable_parameters())
        drawn = [
            (name, 0.05 * mx.random.normal(array.shape, key=mx.random.key(n)))
            for n, (name, array) in enumerate(sorted(weights.items()))
        ]
        base.model.load_weights(drawn, strict=False)
        chosen = rows.load(sample.folder() / "train.jsonl")[::60][:7]
        kept = encoding.encode_rows(chosen, base.tokenizer, base.frame, 512).kept
        threads(monkeypatch, count)
        compute = gradient_of(base.model, DROPOUT)
        computed.append(compute(batches.collate(kept, range(len(kept)), 0), 5))
    (expected, whole), *others = computed
    for value, gradient in others:
        assert value.item() == pytest.approx(expected.item(), rel=1e-5)
        for name, array in flat(whole).items():
            largest = mx.abs(array).max().item()
            assert largest > 0, name
            assert mx.abs(flat(gradient)[name] - array).max().item() < 2e-5 * largest, name


def test_it_follows_the_parameters_of_the_model(
    base: loading.LoadedModel, batch: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads(monkeypatch, 2)
    compute = loss_of(base.model)
    before = compute(batch).item()
    changed = {k: 3 * v for k, v in flat(base.model.trainable_parameters()).items()}
    base.model.load_weights(list(changed.items()), strict=False)
    after = compute(batch).item()
    assert after != before
    threads(monkeypatch, 1)
    assert loss_of(base.model)(batch).item() == pytest.approx(after, rel=1e-5)


@pytest.mark.skipif(device.name() != "cpu", reason="rows share cores on the CPU alone")
@pytest.mark.parametrize("broken", [0, 1])
def test_an_error_of_a_part_is_raised_and_products_get_their_threads_back(
    broken: int, base: loading.LoadedModel, batch: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads(monkeypatch, 2)
    asked: list[int] = []
    monkeypatch.setattr(cores_module, "thread_setter", lambda: asked.append)

    def failing(model: nn.Module, part: Part, _head_loss: Any) -> mx.array:
        if (model is base.model) == (broken == 0):
            raise MemoryError("this part")
        return loss.negative_log_likelihood(model, part)

    with pytest.raises(MemoryError, match="this part"):
        Cpu().loss(base.model, failing)(batch)
    assert asked == [1, 2]


def test_a_replica_shares_arrays_and_not_modules(base: loading.LoadedModel) -> None:
    other = replica(base.model)
    mine, theirs = flat(base.model.parameters()), flat(other.parameters())
    assert mine.keys() == theirs.keys()
    assert all(theirs[name] is array for name, array in mine.items())
    modules = {id(module) for module in base.model.modules()}
    assert not modules & {id(module) for module in other.modules()}
    assert (
        flat(other.trainable_parameters()).keys()
        == flat(base.model.trainable_parameters()).keys()
    )


@pytest.mark.parametrize(("cores", "each"), [(2, 1), (14, 2), (64, 9)])
def test_more_cores_than_rows_share_the_products(
    cores: int, each: int, batch: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    monkeypatch.setattr(cores_module, "thread_setter", lambda: asked.append)
    threads(monkeypatch, cores)
    with cores_module.shared_by(len(cut(batch, cores))):
        assert asked == [each]
    assert asked == [each, cores]


def test_one_row_is_computed_whole_with_products_on_all_cores(
    base: loading.LoadedModel, batch: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads(monkeypatch, 2)
    asked: list[int] = []
    monkeypatch.setattr(cores_module, "thread_setter", lambda: asked.append)
    loss_of(base.model)(cut(batch, len(batch.tokens))[0])
    assert asked == []


def test_a_blas_that_cannot_be_told_keeps_the_batch_whole(
    base: loading.LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads(monkeypatch, 4)
    monkeypatch.setattr(cores_module, "thread_setter", lambda: None)
    assert len(RowThreads(base.model).models) == 1
