"""Tiny bases, made once for all tests of the converters."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def bases(made_once: Callable[..., Path]) -> Callable[[str, bool], Path]:
    """``bases("llama", tied=True)``: a tiny base, made once."""
    from .peft_reference import make_base

    def get(name: str, tied: bool) -> Path:
        return made_once(
            f"base-{name}-{'tied' if tied else 'untied'}",
            lambda folder: make_base(folder, name, tied=tied),
        )

    return get
