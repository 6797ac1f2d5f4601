"""Both ways to compute, for tests of what must not depend on them."""

from __future__ import annotations

import pytest


@pytest.fixture(params=["auto", "plain"])
def each_path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """With the extras of this machine's backend, and by MLX as it is."""
    monkeypatch.setenv("ECELLM_DEVICE", request.param)
    return str(request.param)
