"""Quantized layers as floats again: the same function, by plain products."""

from __future__ import annotations

from ecellm_mlx.device.backend import mx, nn, tree_unflatten


def dequantize(model: nn.Module, dtype: mx.Dtype) -> None:
    """Replace quantized linear and embedding layers by plain ones of ``dtype``."""
    replaced: list[tuple[str, nn.Module]] = []
    for name, module in model.named_modules():
        if not isinstance(module, nn.QuantizedLinear | nn.QuantizedEmbedding):
            continue
        weight = dequantized_weight(module).astype(dtype)
        plain: nn.Module
        if isinstance(module, nn.QuantizedLinear):
            plain = nn.Linear(weight.shape[1], weight.shape[0], bias="bias" in module)
            if "bias" in module:
                plain.bias = module.bias
        else:
            plain = nn.Embedding(*weight.shape)
        plain.weight = weight
        replaced.append((name, plain))
    model.update_modules(tree_unflatten(replaced))


def dequantized_weight(module: nn.Module) -> mx.array:
    """The weight (out, in) of a linear or embedding layer, as floats.

    MLX rounds to the dtype of the scales. Affine scales are widened first, so that a
    float32 result is the exact product and sum of what is stored.
    """
    if "scales" not in module:
        return module.weight
    return dequantized(
        module.weight,
        module.scales,
        module.get("biases"),
        group_size=module.group_size,
        bits=module.bits,
        mode=module.mode,
    )


def dequantized(
    weight: mx.array,
    scales: mx.array,
    biases: mx.array | None = None,
    *,
    group_size: int,
    bits: int,
    mode: str,
) -> mx.array:
    """Floats (out, in) of packed integers; float32 for affine quantization."""
    if mode == "affine" and biases is not None:
        scales, biases = scales.astype(mx.float32), biases.astype(mx.float32)
    return mx.dequantize(weight, scales, biases, group_size=group_size, bits=bits, mode=mode)
