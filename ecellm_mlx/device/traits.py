"""How each device computes, in numbers that plans of memory and time are made of.

Loads no mlx, so that a run can be planned for a machine that is not this one. The
numbers of the CPU backend are checked against ``mx.get_peak_memory``; those of Metal and
CUDA are an estimate.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

# What the CPU backend's loss has of logits at once where the head is not trained: those
# of some 80 positions for a vocabulary of 49,152.
HEAD_BYTES = 1 << 24


@dataclass(frozen=True)
class Traits:
    """What a device keeps in memory, and what it is quick at.

    Attributes:
        name: what ``started`` events call it.
        bytes_per_value: of activations, and of weights that are not quantized.
        dequantizes: whether a quantized base is held as floats of that size.
        keeps_attention_weights: whether the backward pass finds them (B, heads, T, T) in
            memory, and does not compute them again.
        keeps_adapter_sums: whether both sums of each adapter, as wide as its output, are
            kept for the backward pass.
        dropout_copies: values kept of an adapter's input besides the mask, which has a byte
            for each: the input with and without its factor.
        logit_copies: arrays as large as the float32 logits in the loss and its gradient.
        head_bytes: most bytes of logits at once where the head is not trained, by each
            thread; None where all supervised positions have theirs at once.
        shares_rows: whether each core takes rows of a micro-batch of its own.
        pass_overhead_tokens: what a forward pass costs before its first token, in tokens of
            a wide pass. A pass reads all weights, however few tokens it has. On the CPU
            backend arithmetic catches up with that at some 30 tokens (SmolLM2-135M, 2
            cores); a GPU has much more arithmetic for its bandwidth.
        rounding: largest relative difference of logits that is rounding: float32's, or
            that of 16 bits and of a GPU's shortened float32 products (TF32).
    """

    name: str
    bytes_per_value: int
    dequantizes: bool
    keeps_attention_weights: bool
    keeps_adapter_sums: bool
    dropout_copies: int
    logit_copies: int
    head_bytes: int | None
    shares_rows: bool
    pass_overhead_tokens: int
    rounding: float


METAL = Traits(
    name="metal",
    bytes_per_value=2,
    dequantizes=False,
    keeps_attention_weights=True,
    keeps_adapter_sums=True,
    dropout_copies=2,
    logit_copies=7,
    head_bytes=None,
    shares_rows=False,
    pass_overhead_tokens=256,
    rounding=5e-2,
)
CUDA = replace(METAL, name="cuda")
# MLX's own functions on the CPU backend, which computes in float32.
PLAIN_CPU = replace(
    METAL,
    name="cpu (plain)",
    bytes_per_value=4,
    dequantizes=True,
    logit_copies=3,
    pass_overhead_tokens=32,
    rounding=1e-3,
)
# The same with the extras of ``device.cpu``, whose attention, adapters and loss keep their
# inputs only.
CPU = replace(
    PLAIN_CPU,
    name="cpu",
    keeps_attention_weights=False,
    keeps_adapter_sums=False,
    dropout_copies=0,
    logit_copies=2,
    head_bytes=HEAD_BYTES,
    shares_rows=True,
)
