"""What the host computes for MLX's CPU backend equals what MLX computes."""

from __future__ import annotations

from pathlib import Path

import mlx.nn as nn
import numpy as np
import pytest

from ecellm_mlx.device.backend import mx
from ecellm_mlx.device.cpu import kernels as host
from ecellm_mlx.device.cpu import replaced
from ecellm_mlx.models import loading

EXTREME = np.array([-1e4, -200.0, -88.8, -1.0, -0.0, 0.0, 1e-20, 3.0, 90.0, 1e4], np.float32)


def test_activations_equal_mlx_at_any_size() -> None:
    x = mx.array(np.concatenate([EXTREME, np.random.default_rng(0).normal(size=990) * 5]))
    x = x.astype(mx.float32).reshape(4, 250)
    for ours, theirs in ((host.silu, nn.silu), (host.gelu_approx, nn.gelu_approx)):
        np.testing.assert_allclose(ours(x), theirs(x), rtol=2e-5, atol=1e-5)
    gate, up = mx.split(x, 2, axis=-1)  # views, as models with one fused layer have them
    np.testing.assert_allclose(host.swiglu(gate, up), nn.silu(gate) * up, rtol=2e-5, atol=1e-4)


@pytest.mark.parametrize("heads", [(4, 4), (6, 2), (8, 1)])
@pytest.mark.parametrize("masked", ["none", "boolean", "added"])
@pytest.mark.parametrize("block", [1, 1 << 18])
def test_attention_equals_mlx(
    heads: tuple[int, int], masked: str, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host, "BLOCK", block)
    rng = np.random.default_rng(1)
    batch, length, columns, dim = 3, 5, 9, 8

    def normal(*shape: int) -> mx.array:
        return mx.array(rng.normal(size=shape).astype(np.float32) * 4)

    q = normal(batch, heads[0], length, dim)
    k, v = normal(batch, heads[1], columns, dim), normal(batch, heads[1], columns, dim)
    seen = rng.random((batch, 1, length, columns)) < 0.6
    seen[..., 0] = True
    mask = {
        "none": None,
        "boolean": mx.array(seen),
        "added": mx.array(np.where(seen, 0, -1e30).astype(np.float32)),
    }[masked]
    theirs = mx.fast.scaled_dot_product_attention(q, k, v, scale=0.3, mask=mask)
    np.testing.assert_allclose(host.attention(q, k, v, 0.3, mask), theirs, atol=1e-5)


def test_a_model_uses_them_within_the_context_only(tiny_models: dict[str, Path]) -> None:
    import mlx_lm.models.llama as module

    model = loading.load(tiny_models["llama"]).model
    kernels = replaced.for_inference(model)
    before = (module.swiglu, module.scaled_dot_product_attention, nn.silu)
    with kernels.active():
        assert module.swiglu is not before[0]
    with pytest.raises(ZeroDivisionError), kernels.active():
        raise ZeroDivisionError
    assert (module.swiglu, module.scaled_dot_product_attention, nn.silu) == before
