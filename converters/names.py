"""Paths of modules: what PEFT puts before them, and the order to list them in."""

from __future__ import annotations

PEFT_PREFIX = "base_model.model."


def natural(name: str) -> list[tuple[int, int | str]]:
    """Sort key that puts layer 10 after layer 9."""
    return [(0, int(part)) if part.isdigit() else (1, part) for part in name.split(".")]
