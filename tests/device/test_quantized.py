"""Quantized layers give the same numbers on both sides of the crossover."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ecellm_mlx import device
from ecellm_mlx.data import rows as rows_module
from ecellm_mlx.device import runtime
from ecellm_mlx.device.backend import mx, nn
from ecellm_mlx.device.cpu import quantized
from ecellm_mlx.inference.answers import Answerer
from ecellm_mlx.models import loading, lora


@pytest.mark.parametrize("bits", [2, 3, 4, 6, 8])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("block", [64, 1 << 20])
def test_linear_and_gradient_equal_mlx(
    bits: int, bias: bool, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quantized, "BLOCK", block)
    mx.random.seed(0)
    plain = nn.QuantizedLinear(64, 48, bias=bias, group_size=32, bits=bits)
    if bias:
        plain.bias = mx.random.normal((48,))
    holder = nn.Sequential(plain)
    quantized.use_crossover(holder)
    layer = holder.layers[0]
    assert isinstance(layer, quantized.CrossoverLinear)
    for rows in (1, 2, 3, 5):
        x = mx.random.normal((rows, 1, 64))
        np.testing.assert_allclose(layer(x), plain(x), atol=1e-5)

        def loss(x: mx.array, module: nn.Module = layer) -> mx.array:
            return (module(x) ** 2).sum()

        expected = mx.grad(lambda x: (plain(x) ** 2).sum())(x)
        np.testing.assert_allclose(mx.grad(loss)(x), expected, atol=1e-4)
    assert set(layer.parameters()) == set(plain.parameters())
    assert not layer.trainable_parameters()


def test_embedding_equals_mlx() -> None:
    mx.random.seed(0)
    plain = nn.QuantizedEmbedding(96, 64, group_size=32, bits=4)
    holder = nn.Sequential(plain)
    quantized.use_crossover(holder)
    layer = holder.layers[0]
    x = mx.random.normal((5, 64))
    np.testing.assert_allclose(layer.as_linear(x), plain.as_linear(x), atol=1e-5)
    np.testing.assert_array_equal(layer(mx.array([3, 9])), plain(mx.array([3, 9])))


@pytest.mark.proof
def test_a_base_that_does_not_fit_stays_quantized_and_answers_the_same(
    smollm2: Path, dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = rows_module.load(dataset / "test.jsonl", tasks=["PM", "SA"])[:2]
    fits = loading.load(smollm2, bits=4)
    expected = {a.index: a for a in Answerer(fits).answer(rows)}
    monkeypatch.setattr(runtime, "available_memory_gb", lambda: 0.5)
    warnings: list[str] = []
    tight = loading.load(smollm2, bits=4, warn=warnings.append)
    kept = any(isinstance(m, nn.QuantizedLinear) for m in tight.model.modules())
    assert kept
    if device.name() == "cpu":
        assert "stays quantized" in warnings[0]
        kinds = {type(m) for m in tight.model.modules()}
        assert nn.QuantizedLinear not in kinds
        assert quantized.CrossoverLinear in kinds
    # An adapter goes on top of them, unfused.
    spec = lora.LoraSpec(4, 1.0, 0.0, lora.resolve_targets(tight.model, ["all-linear"]))
    lora.attach(tight.model, spec, seed=0)
    answers = {a.index: a for a in Answerer(tight).answer(rows)}
    for index, answer in answers.items():
        assert answer.options == pytest.approx(expected[index].options, abs=1e-3)
