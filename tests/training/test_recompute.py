"""Gradient checkpointing keeps one block's activations at a time, and no further logits."""

from __future__ import annotations

import numpy as np
import pytest

from ecellm_mlx import device
from ecellm_mlx.data.batches import Batch
from ecellm_mlx.device import runtime
from ecellm_mlx.device.backend import mx, nn, tree_flatten
from ecellm_mlx.models import lora
from ecellm_mlx.training import dropout, loss
from ecellm_mlx.training.adapter import recompute_blocks

BLOCKS, ROWS, LENGTH, VOCABULARY = 12, 4, 256, 20_000


@pytest.fixture
def model() -> nn.Module:
    from mlx_lm.models import llama

    mx.random.seed(0)
    arguments = llama.ModelArgs(
        model_type="llama",
        hidden_size=64,
        num_hidden_layers=BLOCKS,
        intermediate_size=256,
        num_attention_heads=4,
        num_key_value_heads=2,
        rms_norm_eps=1e-5,
        vocab_size=VOCABULARY,
        tie_word_embeddings=False,
    )
    network = llama.Model(arguments)
    spec = lora.LoraSpec(4, 1.0, 0.3, lora.resolve_targets(network, ["all-linear", "lm_head"]))
    lora.attach(network, spec, seed=0)
    mx.eval(network.parameters())
    return network.train()


def batch() -> Batch:
    tokens = np.random.default_rng(0).integers(0, VOCABULARY, (ROWS, LENGTH), np.int32)
    rows = np.repeat(np.arange(ROWS, dtype=np.int32), 2)
    positions = np.tile(np.array([LENGTH - 3, LENGTH - 2], np.int32), ROWS)
    return Batch(tokens, rows, positions, tokens[rows, positions + 1], tokens.size)


def peak_and_gradient(model: nn.Module) -> tuple[float, dict[str, mx.array]]:
    """Peak memory (GiB) of a forward and backward pass, above what was there before."""
    dropout.attach(model, 0.3)
    compute = device.current().value_and_grad(
        model, loss.negative_log_likelihood, dropout.AdapterMasks
    )
    before = mx.get_active_memory() / runtime.GIB
    runtime.reset_peak_memory()
    value, gradient = compute(batch(), 3)
    mx.eval(value, gradient)
    return runtime.peak_memory_gb() - before, dict(tree_flatten(gradient))


def test_recomputing_needs_a_third_of_the_memory_and_gives_the_same_bits(
    model: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    # One after the other: what several threads hold at once is up to chance.
    monkeypatch.setattr(runtime, "host_threads", lambda: 1)
    whole, expected = peak_and_gradient(model)
    recompute_blocks(model)
    saved, gradient = peak_and_gradient(model)
    assert saved < whole / 3
    # The logits of all positions alone would be more than that.
    assert saved < ROWS * LENGTH * VOCABULARY * 4 / runtime.GIB
    for name, array in expected.items():
        assert mx.array_equal(array, gradient[name]), name


@pytest.mark.usefixtures("each_path")
def test_recomputing_gives_the_same_gradient_with_dropout(model: nn.Module) -> None:
    _, expected = peak_and_gradient(model)
    recompute_blocks(model)
    _, gradient = peak_and_gradient(model)
    for name, array in expected.items():
        largest = mx.abs(array).max().item()
        assert mx.abs(array - gradient[name]).max().item() <= 2e-5 * largest, name
