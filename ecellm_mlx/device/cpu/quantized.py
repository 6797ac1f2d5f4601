"""Quantized layers for MLX's CPU backend: fused for few rows, de-quantized for many.

The fused kernel there multiplies at some 2 GFLOP/s for every row of the input. With
more than a few rows it is faster to de-quantize the weight, block by block, and leave
the product to BLAS. A block at a time also keeps the memory small: this is how a base
runs that would not fit as float32. Elsewhere MLX's own layers are best and stay.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, cast

from ecellm_mlx.device.backend import mx, nn, tree_unflatten

# Rows from which de-quantizing a weight first beats the fused product.
# ``benchmarks/quantized_prefill.py`` measures it: both take the same time at two rows, for
# 4 and 8 bits and layers of all sizes tried.
CROSSOVER_ROWS = 3
# Weights de-quantized at once (4 MB): larger blocks leave the cache of the processor.
BLOCK = 1 << 20

Product = Callable[[mx.array, mx.array, mx.array, mx.array], mx.array]


class CrossoverLinear(nn.QuantizedLinear):
    """y = x Wᵀ + b for affine W; ``x`` (…, in) gives (…, out)."""

    def __call__(self, x: mx.array) -> mx.array:
        if x.size // x.shape[-1] < CROSSOVER_ROWS:
            return super().__call__(x)
        y = _product(self.group_size, self.bits)(x, self.weight, self.scales, self.biases)
        return y + self.bias if "bias" in self else y


class CrossoverEmbedding(nn.QuantizedEmbedding):
    """An embedding whose weight may serve as the output layer, too."""

    def as_linear(self, x: mx.array) -> mx.array:
        """x Wᵀ: (…, dims) gives (…, vocab)."""
        if x.size // x.shape[-1] < CROSSOVER_ROWS:
            return super().as_linear(x)
        return _product(self.group_size, self.bits)(x, self.weight, self.scales, self.biases)


def use_crossover(model: nn.Module) -> None:
    """Replace the affine quantized layers of ``model`` by those above, in place."""
    replaced: list[tuple[str, nn.Module]] = []
    for name, module in model.named_modules():
        if type(module) is nn.QuantizedLinear:
            kind: Any = CrossoverLinear
        elif type(module) is nn.QuantizedEmbedding:
            kind = CrossoverEmbedding
        else:
            continue
        if module.mode == "affine":
            replaced.append((name, _as(kind, module)))
    model.update_modules(tree_unflatten(replaced))


def _as(kind: Any, module: nn.Module) -> nn.Module:
    """The same layer, arrays and settings, as another class."""
    result = kind.__new__(kind)
    result.__dict__.update(module.__dict__)
    dict.update(result, module)
    return result


@cache
def _product(group_size: int, bits: int) -> Product:
    """x Wᵀ by blocks of rows of W, with a gradient for x alone."""

    def blocks(weight: mx.array) -> list[slice]:
        width = weight.shape[1] * 32 // bits
        rows = max(1, BLOCK // width)
        return [slice(n, n + rows) for n in range(0, weight.shape[0], rows)]

    def plain(
        part: slice, weight: mx.array, scales: mx.array, biases: mx.array, dtype: mx.Dtype
    ) -> mx.array:
        block = mx.dequantize(
            weight[part], scales[part], biases[part], group_size=group_size, bits=bits
        )
        return block.astype(dtype)

    @mx.custom_function
    def product(x: mx.array, weight: mx.array, scales: mx.array, biases: mx.array) -> mx.array:
        return mx.concatenate(
            [x @ plain(p, weight, scales, biases, x.dtype).T for p in blocks(weight)], axis=-1
        )

    @product.vjp
    def gradient(
        primals: tuple[mx.array, ...], cotangent: mx.array, _output: mx.array
    ) -> tuple[mx.array, ...]:
        # De-quantized again: keeping the forward pass's blocks would hold the whole
        # base in memory until the backward pass.
        x, weight, scales, biases = primals
        parts = [
            cotangent[..., p] @ plain(p, weight, scales, biases, x.dtype)
            for p in blocks(weight)
        ]
        rest = [mx.zeros_like(array) for array in (weight, scales, biases)]
        return (sum(parts[1:], parts[0]), *rest)

    return cast(Product, product)
