"""What a GPU's errors mean, for a person.

MLX raises what Metal and CUDA report as ``RuntimeError``, with the driver's own words. The
texts known here are those that MLX 0.32 was seen to raise on Macs. Loads no mlx.
"""

from __future__ import annotations

OUT_OF_MEMORY = (
    "the device ran out of memory; use a smaller micro_batch_size, max_seq_length or model, "
    "or set grad_checkpoint=true"
)
TOO_LARGE = (
    "one array would be larger than the device allows; use a smaller micro_batch_size or "
    "max_seq_length"
)
TOO_MANY = (
    "the GPU holds more arrays at once than the system allows; use a smaller "
    "micro_batch_size, or set grad_checkpoint=true"
)
TOO_LONG = (
    "macOS ended a computation that kept the GPU from drawing the display for seconds; use a "
    "smaller micro_batch_size or max_seq_length, or let the display sleep"
)
TAKEN_AWAY = "the GPU was reset because of another program; close what else uses it"
FAILED = (
    "the GPU did not complete a computation; close other programs that use it, and update "
    "macOS if it happens again"
)
# Parts of a text in small letters, and what they mean: the first that fits.
MEANINGS: tuple[tuple[str, str], ...] = (
    ("insufficient memory", OUT_OF_MEMORY),
    ("erroroutofmemory", OUT_OF_MEMORY),
    ("out of memory", OUT_OF_MEMORY),
    ("unable to allocate", OUT_OF_MEMORY),
    ("greater than the maximum allowed buffer size", TOO_LARGE),
    ("[metal::malloc] resource limit", TOO_MANY),
    ("impacting interactivity", TOO_LONG),
    ("gpu timeout", TOO_LONG),
    ("gpu hang", TOO_LONG),
    ("innocent victim", TAKEN_AWAY),
    ("command buffer execution failed", FAILED),
)


def explain(error: BaseException) -> str | None:
    """What an error of the device means and what helps; None for any other error."""
    if isinstance(error, MemoryError):
        return OUT_OF_MEMORY
    if not isinstance(error, RuntimeError):
        return None
    text = str(error).lower()
    return next((meaning for part, meaning in MEANINGS if part in text), None)
