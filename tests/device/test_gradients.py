"""The host's kernels are MLX's functions and gradients, to rounding."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from ecellm_mlx.device.backend import mx, nn, tree_flatten
from ecellm_mlx.device.cpu import gradients, head, replaced
from ecellm_mlx.device.protocol import HeadLoss
from ecellm_mlx.models import body, loading, lora
from ecellm_mlx.training import loss


def close(a: mx.array, b: mx.array) -> bool:
    return bool(mx.abs(a - b).max() <= 2e-5 * mx.maximum(mx.abs(b).max(), 1))


def assert_same(
    ours: Callable[..., mx.array], theirs: Callable[..., mx.array], *arrays: mx.array
) -> None:
    """Same values and same gradients, through an outer function that mixes them."""
    assert close(ours(*arrays), theirs(*arrays))
    weight = mx.random.normal(theirs(*arrays).shape, key=mx.random.key(9))
    numbers = tuple(range(len(arrays)))
    got = mx.grad(lambda *a: (ours(*a) * weight).sum(), argnums=numbers)(*arrays)
    expected = mx.grad(lambda *a: (theirs(*a) * weight).sum(), argnums=numbers)(*arrays)
    for mine, other in zip(got, expected, strict=True):
        assert close(mine, other)


def normal(seed: int, *shape: int, spread: float = 1.0) -> mx.array:
    return mx.random.normal(shape, key=mx.random.key(seed)) * spread


@pytest.mark.parametrize("shape", [(3, 70, 64), (2, 1, 5), (1, 300, 1000)])
def test_swiglu(shape: tuple[int, ...]) -> None:
    gate = normal(1, *shape, spread=30.0)
    assert_same(gradients.swiglu, lambda g, u: nn.silu(g) * u, gate, normal(2, *shape))


def test_gelu() -> None:
    assert_same(gradients.gelu_approx, nn.gelu_approx, normal(3, 4, 50, 96, spread=4.0))


@pytest.mark.parametrize(("length", "window"), [(9, 3), (65, 64), (200, 5), (200, 70)])
def test_attention_within_a_sliding_window(length: int, window: int) -> None:
    from mlx_lm.models.base import create_causal_mask

    queries = normal(4, 3, 6, length, 16, spread=3.0)
    keys, values = (normal(s, 3, 2, length, 16) for s in (5, 6))
    mask = create_causal_mask(length, window_size=window)

    def theirs(q: mx.array, k: mx.array, v: mx.array) -> mx.array:
        return mx.fast.scaled_dot_product_attention(q, k, v, scale=0.3, mask=mask)

    def ours(q: mx.array, k: mx.array, v: mx.array) -> mx.array:
        result = gradients.attend(q, k, v, None, 0.3, mask)
        assert result is not None
        return result

    assert_same(ours, theirs, queries, keys, values)
    assert gradients.attend(queries, keys, values, None, 0.3, mask.T) is None


@pytest.mark.parametrize("length", [2, 63, 64, 65, 200])
@pytest.mark.parametrize(("heads", "key_heads"), [(6, 2), (4, 4)])
def test_causal_attention(length: int, heads: int, key_heads: int) -> None:
    queries = normal(4, 3, heads, length, 16, spread=3.0)
    keys, values = (normal(s, 3, key_heads, length, 16) for s in (5, 6))

    def theirs(q: mx.array, k: mx.array, v: mx.array) -> mx.array:
        return mx.fast.scaled_dot_product_attention(q, k, v, scale=0.3, mask="causal")

    assert_same(
        lambda q, k, v: gradients.attention(q, k, v, 0.3), theirs, queries, keys, values
    )


def test_attention_of_very_large_scores_stays_finite() -> None:
    queries = normal(7, 1, 2, 70, 8, spread=1e4)
    output = gradients.attention(queries, queries, queries, 1.0)
    assert bool(mx.isfinite(output).all())


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("dropout", [False, True])
def test_lora_linear(bias: bool, dropout: bool) -> None:
    layer = nn.Linear(24, 40, bias=bias)
    a, b, x = normal(10, 24, 4), normal(11, 4, 40), normal(12, 3, 7, 24)
    mask = mx.random.bernoulli(0.7, x.shape, key=mx.random.key(13)) if dropout else None

    def ours(x: mx.array, a: mx.array, b: mx.array) -> mx.array:
        return gradients.lora_linear(x, a, b, layer, 0.5, mask, 0.7)

    def theirs(x: mx.array, a: mx.array, b: mx.array) -> mx.array:
        dropped = x if mask is None else x * mask / 0.7
        return layer(x) + 0.5 * ((dropped @ a) @ b)

    assert_same(ours, theirs, x, a, b)


def test_cross_entropy() -> None:
    targets = mx.array([3, 0, 49, 7])

    def theirs(logits: mx.array) -> mx.array:
        return nn.losses.cross_entropy(logits, targets, reduction="sum")

    logits = normal(14, 4, 50, spread=20.0)
    assert_same(lambda x: head.cross_entropy(x, targets), theirs, logits)


def test_the_head_never_has_all_logits(
    monkeypatch: pytest.MonkeyPatch, tiny_models: dict[str, Path]
) -> None:
    """Phi's head has a bias, Llama's is the tied embedding; blocks end within the rows."""
    for name in ("phi", "llama"):
        model = loading.load(tiny_models[name]).model
        model.freeze()
        targets = mx.array([3, 0, 49, 7, 11])

        def theirs(hidden: mx.array, model=model, targets=targets) -> mx.array:
            return loss.head_loss(body.head(model), hidden, targets)

        def ours(hidden: mx.array, model=model, targets=targets) -> mx.array:
            return head.head_loss(body.head(model), hidden, targets)

        hidden = normal(15, 5, 32, spread=20.0)
        width = model.args.vocab_size
        monkeypatch.setattr(head, "HEAD_BYTES", 4 * width * 2)
        model.train()
        assert_same(ours, theirs, hidden)
        model.eval()
        assert close(ours(hidden), theirs(hidden))


def test_a_trained_head_keeps_its_gradient(tiny: Path) -> None:
    model = loading.load(tiny).model
    targets = lora.resolve_targets(model, ["embed_tokens"])
    lora.attach(model, lora.LoraSpec(4, 2.0, 0.0, targets), seed=0)
    hidden, chosen = normal(16, 3, 32), mx.array([1, 2, 3])

    def gradient(head_loss: HeadLoss) -> dict[str, mx.array]:
        def function() -> mx.array:
            return head_loss(body.head(model), hidden, chosen)

        return dict(tree_flatten(nn.value_and_grad(model, function)()[1]))

    expected = gradient(loss.head_loss)
    with replaced.for_training(model).active():
        got = gradient(head.head_loss)
    assert any(mx.abs(array).max() > 0 for array in expected.values())
    for name, array in expected.items():
        assert close(got[name], array), name
