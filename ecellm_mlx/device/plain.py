"""MLX as it is: Metal, CUDA, and the CPU backend with ``ECELLM_DEVICE=plain``.

What a reader finds in ``training.loss`` and in mlx-lm's models is what runs. On the CPU
backend two things are chosen, and nothing is replaced: arrays are float32, since 16-bit
products run some 50 times slower there, and a quantized base that fits is de-quantized
when it is loaded, since fused 4-bit products run at 2 GFLOP/s and float32 ones some 60
times faster.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ecellm_mlx.device import runtime
from ecellm_mlx.device.backend import mx, nn, tree_flatten
from ecellm_mlx.device.dequantize import dequantize
from ecellm_mlx.device.padded import BatchCache, best_width
from ecellm_mlx.device.protocol import (
    Batch,
    Forward,
    Loss,
    LossAndGradient,
    Masks,
    Pass,
)
from ecellm_mlx.device.traits import Traits

FLOAT32_BYTES = 4
# Share of the free memory that a de-quantized base may take; the rest is for
# activations, the adapter and other programs.
DEQUANTIZE_SHARE = 0.6


class Plain:
    """A device that computes by MLX's own functions; see ``protocol.Device``."""

    def __init__(self, traits: Traits) -> None:
        self.traits = traits

    def prepare(self, model: nn.Module, warn: Callable[[str], None]) -> None:
        """Set the dtype to compute in; de-quantize where that pays and fits."""
        if not self.traits.dequantizes:
            # Weights stay in the dtype that they are stored in, which is the model's.
            model.set_dtype(_stored_dtype(model))
            return
        if any(hasattr(module, "bits") for _, module in model.named_modules()):
            needed_gb = _parameter_count(model) * FLOAT32_BYTES / runtime.GIB
            free_gb = runtime.available_memory_gb()
            if needed_gb <= DEQUANTIZE_SHARE * free_gb:
                dequantize(model, mx.float32)
            else:
                self.keep_quantized(model)
                warn(
                    f"the quantized base would need {needed_gb:.1f} GB in float32 and "
                    f"{free_gb:.1f} GB is free, so it stays quantized, which is slower; "
                    "close other programs or use a smaller model"
                )
        model.set_dtype(mx.float32)

    def keep_quantized(self, model: nn.Module) -> None:
        """Nothing to do: MLX's own quantized layers compute."""

    def value_and_grad(
        self, model: nn.Module, loss: Loss, masks: Callable[[nn.Module], Masks]
    ) -> LossAndGradient:
        """MLX's differentiation of the whole micro-batch."""
        gradient = nn.value_and_grad(model, loss)
        dropout = masks(model)

        def compute(batch: Batch, seed: int) -> tuple[mx.array, Any]:
            model.train()
            dropout.draw(seed, batch)
            value, tree = gradient(model, batch)
            return value, tree

        return compute

    def loss(self, model: nn.Module, loss: Loss) -> Callable[[Batch], mx.array]:
        """The loss of the whole batch."""

        def compute(batch: Batch) -> mx.array:
            model.eval()
            return loss(model, batch)

        return compute

    def recomputed(self, forward: Callable[..., mx.array]) -> Callable[..., mx.array]:
        """``mx.checkpoint`` of a block's call, whose parameters are arguments, too."""

        def call(block: nn.Module, *args: Any, **named: Any) -> mx.array:
            def function(parameters: Any, *inner: Any, **inner_named: Any) -> mx.array:
                block.update(parameters)
                return forward(block, *inner, **inner_named)

            return mx.checkpoint(function)(block.trainable_parameters(), *args, **named)

        return call

    def forwards(self, model: nn.Module, layers: int) -> list[Forward]:
        """Padded passes, one after the other."""
        return [Padded(layers, self.traits.pass_overhead_tokens)]


class Padded:
    """Rows of different lengths in one pass, as wide as the widest; see ``padded``."""

    cores = 1

    def __init__(self, layers: int, overhead_tokens: int) -> None:
        self._layers = layers
        self._overhead_tokens = overhead_tokens

    def cache(self, rows: int) -> BatchCache:
        """An empty cache of ``rows`` rows."""
        return BatchCache(self._layers, rows)

    def width(self, counts: Sequence[int]) -> int:
        """See ``best_width``."""
        return best_width(counts, self._overhead_tokens)

    def run(
        self, passes: Sequence[Sequence[Pass]], read: Callable[[Sequence[Pass]], None]
    ) -> None:
        """Read the lists one after the other."""
        for each in passes:
            read(each)


def _parameter_count(model: nn.Module) -> int:
    count = 0
    for name, array in tree_flatten(model.parameters()):
        if name.endswith((".scales", ".biases")):
            continue
        packed = array.dtype == mx.uint32
        # Packed words hold 32 / bits values; 4 bits is the densest that is common.
        count += array.size * (8 if packed else 1)
    return count


def _stored_dtype(model: nn.Module) -> mx.Dtype:
    for _, array in tree_flatten(model.parameters()):
        if mx.issubdtype(array.dtype, mx.floating):
            return array.dtype
    return mx.float32
