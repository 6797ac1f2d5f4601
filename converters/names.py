"""Module names of each architecture in mlx-lm and in Hugging Face transformers.

For the architectures listed here both use the same module paths for every linear and
embedding layer, which a test compares, so that a name needs nothing but PEFT's prefix.
For others the caller finds out from the base itself; a guessed name would load as a
silent no-op.
"""

from __future__ import annotations

from converters.errors import ConversionError

SAME_NAMES = (
    "cohere", "cohere2", "ernie4_5", "gemma", "gemma2", "gemma3_text", "glm", "glm4", "granite",
    "helium", "llama", "mistral", "olmo2", "phi", "phi3", "qwen2", "qwen3", "seed_oss",
    "smollm3", "stablelm", "starcoder2",
)  # fmt: skip
PEFT_PREFIX = "base_model.model."


def check_architecture(model_type: str) -> None:
    """Refuse an architecture whose names are not known to agree.

    Raises:
        ConversionError: it is not in ``SAME_NAMES``.
    """
    if model_type not in SAME_NAMES:
        raise ConversionError(
            f"nothing says how Hugging Face names the layers of {model_type!r}: it is none of "
            f"{', '.join(SAME_NAMES)}; install PyTorch, or give a base from the hub."
        )


def natural(name: str) -> list[tuple[int, int | str]]:
    """Sort key that puts layer 10 after layer 9."""
    return [(0, int(part)) if part.isdigit() else (1, part) for part in name.split(".")]
