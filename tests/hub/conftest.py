"""A hub on the loopback, with the hub's own client library in front of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub import constants

from ecellm_mlx.hub import client as hub_client
from ecellm_mlx.workspace import Workspace

from .fake_hub import FakeHub
from .tiny_repository import FILES, REPO, UNWANTED


@pytest.fixture(scope="module")
def client() -> Iterator[None]:
    """One HTTP client of the hub's library for all tests, without anyone's proxy."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("NO_PROXY", "127.0.0.1")
        huggingface_hub.close_session()
        yield
        huggingface_hub.close_session()


@pytest.fixture
def empty_hub(
    client: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[FakeHub]:
    """A hub without repositories, in an environment without anyone's token."""
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_OIDC_RESOURCE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub_client, "RETRY_WAIT_S", 0.0)
    with FakeHub() as fake:
        monkeypatch.setenv("HF_ENDPOINT", fake.url)
        yield fake


@pytest.fixture
def hub(empty_hub: FakeHub) -> FakeHub:
    """A hub with one model."""
    empty_hub.commit(REPO, FILES | UNWANTED)
    return empty_hub


@pytest.fixture
def space(tmp_path: Path) -> Workspace:
    """A workspace to pull into."""
    return Workspace(tmp_path / "home")
