"""How much memory a training run will need, before anything runs.

The peak is weights + adapter with its gradients and optimizer + what a forward pass
keeps for the backward one + the logits at supervised positions + what one layer needs
while it is computed. All follow from the model's shape, the recipe and the lengths of
the rows; nothing is loaded. Constants count arrays that MLX keeps (``float32`` on the
CPU backend, 16 bits elsewhere). On the CPU backend they are checked against
``mx.get_peak_memory``; on Metal and CUDA they are an estimate.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ecellm_mlx.device import runtime
from ecellm_mlx.device.traits import Traits
from ecellm_mlx.models.shape import EMBEDDING, HEAD, ModelShape
from ecellm_mlx.training.recipe import Recipe

GIB = 1024**3
GROUP_SIZE = 32
# Scale and bias of each group of a quantized layer, two bytes each.
GROUP_BYTES = 4
# Weights, summed and new gradients, two moments, and the updated copy of one of them.
ADAPTER_COPIES = 5
# ECInstruct rows as SmolLM2's tokenizer cuts them: characters of a token.
CHARACTERS_PER_TOKEN = 3.6


@dataclass(frozen=True)
class Workload:
    """The micro-batch that decides the peak: rows, tokens of the longest, supervised."""

    rows: int
    length: int
    supervised: int


@dataclass(frozen=True)
class Prediction:
    """Bytes of each part. ``transient`` is what one layer needs while it is computed."""

    weights: int
    adapter: int
    activations: int
    logits: int
    transient: int

    @property
    def peak(self) -> int:
        """All parts together; logits are gone before a layer goes back."""
        rest = self.weights + self.adapter + self.activations
        return rest + max(self.logits, self.transient)

    @property
    def peak_gb(self) -> float:
        """The peak (GiB)."""
        return self.peak / GIB

    def to_json(self) -> dict[str, float]:
        """Parts and peak in GiB."""
        names = ("weights", "adapter", "activations", "logits", "transient")
        parts = {f"{name}_gb": round(getattr(self, name) / GIB, 3) for name in names}
        return {**parts, "peak_gb": round(self.peak_gb, 3)}


def workload(lengths: Sequence[tuple[int, int]], recipe: Recipe) -> Workload:
    """The largest micro-batch of rows given as (tokens, supervised tokens)."""
    size = recipe.micro_batch_size
    cut = sorted(((min(t, recipe.max_seq_length), s) for t, s in lengths), reverse=True)
    if recipe.order == "shuffled":
        # Any rows can meet, also those with the longest answers.
        supervised = sum(sorted((s for _, s in cut), reverse=True)[:size])
    else:
        parts = [cut[i : i + size] for i in range(0, len(cut), size)]
        supervised = max(sum(s for _, s in part) for part in parts)
    longest = cut[:size]
    return Workload(len(longest), longest[0][0], max(1, supervised))


def adapter_parameters(shape: ModelShape, recipe: Recipe) -> int:
    """Trainable numbers of a LoRA with the recipe's targets."""
    total = 0
    for narrow, wide in shape.adapted(recipe.targets).values():
        total += shape.layers * recipe.rank * (narrow + wide)
    for name in (HEAD, EMBEDDING):
        if name in recipe.targets:
            total += recipe.rank * (shape.hidden + shape.vocab)
    return total


def weight_bytes(shape: ModelShape, bits: int, traits: Traits) -> int:
    """The base in memory, which may be held as floats whatever is on disk."""
    count = shape.block_parameters + shape.embedding_parameters
    if traits.dequantizes:
        return count * traits.bytes_per_value
    if not bits:
        bits = shape.bits if shape.bits < 16 else 16
    if bits >= 16:
        return count * 2
    quantized = shape.block_parameters + (0 if shape.tied_head else shape.vocab * shape.hidden)
    packed = quantized * bits // 8 + quantized // GROUP_SIZE * GROUP_BYTES
    return packed + (count - quantized) * 2


def kept_values(shape: ModelShape) -> int:
    """Values that a block keeps of a token for the way back.

    Its input, what attention and the MLP give back, what each norm makes, and the sums,
    of which a block with one norm has one; queries, keys and values before and after
    rotation, normalized ones as well, and attention's output twice; and the middle of the
    MLP.
    """
    family = shape.family
    sums = 1 if family.norms == 1 else 2
    middle = (2 if family.gated else 1) + 1
    kept = (3 + family.norms + sums) * shape.hidden + 4 * shape.queries + 3 * shape.keys
    if family.head_norms:
        kept += shape.queries + shape.keys
    if family.gated and family.activation == "gelu":
        middle += 1
    return kept + middle * shape.intermediate


def predict(shape: ModelShape, recipe: Recipe, work: Workload, traits: Traits) -> Prediction:
    """Predict the peak of training ``shape`` by ``recipe`` on micro-batches of ``work``.

    Args:
        shape: the base.
        recipe: bits, targets, dropout, gradient checkpointing.
        work: the largest micro-batch.
        traits: of the device that computes.
    """
    size = traits.bytes_per_value
    tokens = work.rows * work.length
    adapted = shape.adapted(recipe.targets)
    kept_bytes = kept_values(shape) * size
    if recipe.dropout:
        # Each adapter's mask, and what is kept besides it.
        each = 1 + traits.dropout_copies * size
        kept_bytes += sum(narrow for narrow, _ in adapted.values()) * each
    if traits.keeps_attention_weights:
        kept_bytes += shape.heads * work.length * size
    if traits.keeps_adapter_sums:
        kept_bytes += sum(wide for _, wide in adapted.values()) * size
    block = tokens * kept_bytes
    scores = work.rows * shape.heads * work.length**2 * size
    middle = tokens * (3 * shape.intermediate + 2 * shape.hidden) * size
    transient = max(middle, 2 * scores)
    if recipe.grad_checkpoint:
        activations = shape.layers * tokens * shape.hidden * size + block
    else:
        activations = shape.layers * block
    parameters = adapter_parameters(shape, recipe)
    logits = work.supervised * shape.vocab * 4
    head_is_trained = bool({HEAD, EMBEDDING} & set(recipe.targets))
    if traits.head_bytes is None or head_is_trained:
        logits *= traits.logit_copies
    else:
        threads = min(work.rows, runtime.host_threads()) if traits.shares_rows else 1
        logits = min(logits, traits.head_bytes * threads)
    return Prediction(
        weights=weight_bytes(shape, recipe.bits, traits),
        adapter=parameters * 4 * ADAPTER_COPIES,
        activations=activations,
        logits=logits,
        transient=transient,
    )
