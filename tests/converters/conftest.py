"""Tiny bases, made once for all tests of the converters."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from .peft_reference import make_base


@pytest.fixture(scope="session")
def bases(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, bool], Path]:
    """``bases("llama", tied=True)``: a tiny base, made once."""
    made: dict[tuple[str, bool], Path] = {}

    def get(name: str, tied: bool) -> Path:
        if (name, tied) not in made:
            folder = tmp_path_factory.mktemp("bases") / f"{name}-{'tied' if tied else 'untied'}"
            made[name, tied] = make_base(folder, name, tied=tied)
        return made[name, tied]

    return get
