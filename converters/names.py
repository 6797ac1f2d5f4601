"""Names in adapters: their files, what PEFT puts before a path, the order of paths."""

from __future__ import annotations

PEFT_PREFIX = "base_model.model."
# An adapter's files: its configuration, mlx-lm's tensors and PEFT's.
ADAPTER_CONFIG = "adapter_config.json"
MLX_WEIGHTS, PEFT_WEIGHTS = "adapters.safetensors", "adapter_model.safetensors"


def natural(name: str) -> list[tuple[int, int | str]]:
    """Sort key that puts layer 10 after layer 9."""
    return [(0, int(part)) if part.isdigit() else (1, part) for part in name.split(".")]
