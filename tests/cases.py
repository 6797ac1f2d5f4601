"""Cases of a parametrized test that are too long for ``make test``."""

from __future__ import annotations

from typing import Any

import pytest


def proof(*values: Any) -> Any:
    """A case that only ``make proof`` runs."""
    return pytest.param(*values, marks=pytest.mark.proof)
