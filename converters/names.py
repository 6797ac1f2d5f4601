"""Module names of each architecture in mlx-lm and in Hugging Face transformers.

For the architectures listed here both use the same module paths, so that a name
needs nothing but PEFT's prefix. An architecture that is not listed is refused: a
guessed name would load as a silent no-op.
"""

from __future__ import annotations

from converters.errors import ConversionError

SAME_NAMES = ("llama", "mistral", "phi", "qwen2")
PEFT_PREFIX = "base_model.model."


def check_architecture(model_type: str) -> None:
    """Refuse an architecture whose names are not known to agree.

    Raises:
        ConversionError: it is not in ``SAME_NAMES``.
    """
    if model_type not in SAME_NAMES:
        raise ConversionError(
            f"adapters of the architecture {model_type!r} cannot be converted; supported are "
            f"{', '.join(SAME_NAMES)}."
        )


def to_peft_module(module: str) -> str:
    """PEFT's name of an MLX module path."""
    return PEFT_PREFIX + module


def from_peft_module(name: str) -> str:
    """The MLX module path of a PEFT name.

    Raises:
        ConversionError: the name does not carry PEFT's prefix.
    """
    if not name.startswith(PEFT_PREFIX):
        raise ConversionError(
            f"the tensor {name!r} does not start with {PEFT_PREFIX!r}; it is not from PEFT."
        )
    return name.removeprefix(PEFT_PREFIX)


def natural(name: str) -> list[tuple[int, int | str]]:
    """Sort key that puts layer 10 after layer 9."""
    return [(0, int(part)) if part.isdigit() else (1, part) for part in name.split(".")]
