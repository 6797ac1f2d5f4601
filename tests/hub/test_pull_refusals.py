"""What a pull cannot do, it says in one sentence."""

from __future__ import annotations

import socket

import pytest
from huggingface_hub import constants

from ecellm_mlx.errors import HubError, ModelError, UsageError
from ecellm_mlx.hub.download import plan, pull
from ecellm_mlx.workspace import Workspace

from .fake_hub import FakeHub
from .tiny_repository import NAME, REPO, WEIGHTS, model_files

pytestmark = pytest.mark.unit


@pytest.mark.parametrize("gate", ["files", "all"])
@pytest.mark.parametrize("token", [None, "hf_test_token"])
def test_a_gated_model_says_how_to_get_access(
    hub: FakeHub,
    space: Workspace,
    monkeypatch: pytest.MonkeyPatch,
    gate: str,
    token: str | None,
) -> None:
    hub.repos[REPO].gated = gate
    if token:
        monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(HubError, match=r"is gated.*HF_TOKEN or run `hf auth login`") as caught:
        pull(REPO, workspace=space)
    assert f"{hub.url}/{REPO}" in str(caught.value)
    assert not hub.asked(WEIGHTS)


def test_the_token_goes_to_the_hub_and_not_to_its_cdn(
    hub: FakeHub, space: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_test_token")
    pull(REPO, workspace=space)
    sent = {server: set() for server in ("hub", "cdn")}
    for request in hub.requests:
        sent[request.server].add(request.authorization)
    assert sent == {"hub": {"Bearer hf_test_token"}, "cdn": {None}}


def test_a_repository_that_does_not_exist(hub: FakeHub, space: Workspace) -> None:
    with pytest.raises(HubError, match=r"shop/none does not exist on .*or is private"):
        pull("shop/none", workspace=space)
    assert not space.home.exists()


def test_a_revision_that_does_not_exist(hub: FakeHub, space: Workspace) -> None:
    with pytest.raises(HubError, match=r"shop/tiny-model has no revision 'v9'"):
        pull(f"{REPO}@v9", workspace=space)


def test_a_repository_without_safetensors(hub: FakeHub, space: Workspace) -> None:
    hub.commit("shop/old", {"config.json": b"{}", "pytorch_model.bin": b"pickle"})
    with pytest.raises(HubError, match=r"expected model.safetensors .*got pytorch_model.bin"):
        pull("shop/old", workspace=space)


def test_a_hub_that_cannot_be_reached(hub: FakeHub, space: Workspace) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        with pytest.raises(HubError, match=rf"{url} cannot be reached.*check the connection"):
            pull(REPO, workspace=space, endpoint=url)


def test_offline_mode_is_respected(
    hub: FakeHub, space: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(HubError, match=r"offline mode; unset HF_HUB_OFFLINE"):
        pull(REPO, workspace=space)
    assert hub.requests == []


def test_a_server_that_is_no_hub(hub: FakeHub, space: Workspace) -> None:
    hub.login_page = True
    with pytest.raises(HubError, match=r"answered with something that is no model"):
        plan(REPO, workspace=space)


def test_a_folder_that_was_not_pulled_is_left_alone(hub: FakeHub, space: Workspace) -> None:
    folder = space.models / NAME
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    with pytest.raises(HubError, match=r"already there and was not pulled"):
        pull(REPO, workspace=space)
    assert model_files(folder) == {"config.json": b"{}"}


@pytest.mark.parametrize("name", ["phi-3", "a/b/c", "../up", "/abs/path", ""])
def test_names_that_are_no_model_never_reach_the_hub(
    hub: FakeHub, space: Workspace, name: str
) -> None:
    with pytest.raises(ModelError, match=r"there is no model .*owner/name"):
        pull(name, workspace=space)
    assert hub.requests == []


def test_two_revisions_at_once_are_refused(hub: FakeHub, space: Workspace) -> None:
    with pytest.raises(UsageError, match=r"two different revisions"):
        pull(f"{REPO}@v1", revision="v2", workspace=space)
