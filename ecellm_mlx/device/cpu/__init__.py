"""The extras of MLX's Linux CPU backend: quick, and never another answer.

MLX's CPU backend multiplies matrices on all cores and does everything else on one, at some
70 million exponentials a second. Here each core gets rows of its own, the host computes
what MLX is slow at, and rows are read without padding. All of it stands behind
``device.protocol``: nothing but ``ecellm_mlx.device`` imports this room, and without it
everything computes by ``device.plain``.

    cores      independent parts of one computation, each on a core
    rows       the rows of a micro-batch, forward and backward, on all cores
    parts      those rows cut into parts
    gradients  forward and backward arithmetic on the host
    head       the loss, with never all logits at once
    kernels    forward arithmetic on the host
    softmax    exponentials by NumPy
    packed     a KV cache without padding
    replaced   the one list of what stands in the place of what while the host computes
    quantized  layers that choose by the number of rows: fused, or de-quantized first
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ecellm_mlx.device.backend import mx, nn
from ecellm_mlx.device.cpu import rows
from ecellm_mlx.device.cpu.cores import CoreThreads
from ecellm_mlx.device.cpu.gradients import recomputed_block
from ecellm_mlx.device.cpu.packed import PASS_TOKENS, PackedCache
from ecellm_mlx.device.cpu.quantized import CrossoverEmbedding, CrossoverLinear, use_crossover
from ecellm_mlx.device.cpu.replaced import Replacements, for_inference
from ecellm_mlx.device.padded import BatchCache, best_width
from ecellm_mlx.device.plain import Plain
from ecellm_mlx.device.protocol import (
    Batch,
    Forward,
    Loss,
    LossAndGradient,
    Masks,
    Pass,
    RowCache,
)
from ecellm_mlx.device.traits import CPU

# Tokens of a pass where every pass de-quantizes the weights anew.
QUANTIZED_PASS_TOKENS = 8 * PASS_TOKENS


class Cpu(Plain):
    """The CPU backend with all extras; see ``protocol.Device``."""

    def __init__(self) -> None:
        super().__init__(CPU)

    def keep_quantized(self, model: nn.Module) -> None:
        """Layers that choose by the number of rows take the place of MLX's."""
        use_crossover(model)

    def value_and_grad(
        self, model: nn.Module, loss: Loss, masks: Callable[[nn.Module], Masks]
    ) -> LossAndGradient:
        """Rows on all cores, with the host's arithmetic."""
        return rows.value_and_grad(model, loss, masks)

    def loss(self, model: nn.Module, loss: Loss) -> Callable[[Batch], mx.array]:
        """Rows on all cores, with the host's arithmetic."""
        return rows.loss_without_dropout(model, loss)

    def recomputed(self, forward: Callable[..., mx.array]) -> Callable[..., mx.array]:
        """Where the host computes, nothing is left to forget but the inputs."""
        return recomputed_block(forward)

    def forwards(self, model: nn.Module, layers: int) -> list[Forward]:
        """Packed rows; padded ones for a model whose attention is its own."""
        kinds = {type(module) for module in model.modules()}
        quantized = kinds & {CrossoverLinear, CrossoverEmbedding}
        host, cores = for_inference(model), CoreThreads()
        tokens = QUANTIZED_PASS_TOKENS if quantized else PASS_TOKENS

        def packed(rows: int) -> RowCache:
            return PackedCache(layers, rows, tokens)

        def padded(rows: int) -> RowCache:
            return BatchCache(layers, rows, additive=True)

        return [
            HostForward(host, cores, lambda rows: PackedCache(layers, rows, tokens), max),
            HostForward(
                host,
                cores,
                lambda rows: BatchCache(layers, rows, additive=True),
                lambda counts: best_width(counts, self.traits.pass_overhead_tokens),
            ),
        ]


class HostForward:
    """Forward passes by the host's functions, each list of passes on a core of its own."""

    def __init__(
        self,
        host: Replacements,
        cores: CoreThreads,
        cache: Callable[[int], RowCache],
        width: Callable[[Sequence[int]], int],
    ) -> None:
        self._host = host
        self._cores = cores
        self.cache = cache
        self.width = width

    @property
    def cores(self) -> int:
        """How many lists are computed at once."""
        return self._cores.count

    def run(
        self, passes: Sequence[Sequence[Pass]], read: Callable[[Sequence[Pass]], None]
    ) -> None:
        """Read every list, the first of them on this thread."""
        with self._host.active():
            self._cores.each(passes, lambda _, each: read(each))
