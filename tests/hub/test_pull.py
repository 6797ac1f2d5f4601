"""Pulling a model from a hub on the loopback: files, size, record, revisions."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path

import huggingface_hub
import pytest

from ecellm_mlx.errors import HubError
from ecellm_mlx.hub.download import PullProgress, plan, pull
from ecellm_mlx.models.fingerprint import verify_safetensors
from ecellm_mlx.models.registry import REGISTRY, installed, resolve
from ecellm_mlx.models.source import read_source
from ecellm_mlx.workspace import Workspace

from .fake_hub import FakeHub
from .tiny_repository import FILES, NAME, REPO, TOTAL, WEIGHTS, model_files

pytestmark = pytest.mark.unit


def test_the_fake_hub_serves_the_hubs_own_client(hub: FakeHub, tmp_path: Path) -> None:
    path = huggingface_hub.snapshot_download(
        REPO, local_dir=tmp_path / "copy", endpoint=hub.url, token=False
    )
    assert (Path(path) / WEIGHTS).read_bytes() == FILES[WEIGHTS]
    assert (Path(path) / "onnx/config.json").read_bytes() == b"{}"


def test_a_pull_brings_exactly_the_files_of_a_model(hub: FakeHub, space: Workspace) -> None:
    result = pull(REPO, workspace=space)

    assert result.path == space.models / NAME
    assert model_files(result.path) == FILES
    assert result.bytes_downloaded == TOTAL
    assert hub.fetched_files() == set(FILES)
    assert [p.name for p in space.models.iterdir()] == [NAME]
    verify_safetensors(result.path / WEIGHTS)
    assert resolve(REPO, space) == result.path
    assert [m.problem for m in installed(space)] == [""]


def test_the_record_names_commit_sizes_and_checksums(hub: FakeHub, space: Workspace) -> None:
    commit = hub.repos[REPO].branches["main"]
    value = json.loads((pull(REPO, workspace=space).path / ".ecellm-source.json").read_text())

    assert (value["repo"], value["requested"], value["commit"]) == (REPO, "main", commit)
    entries = {f["path"]: f for f in value["files"]}
    assert {path: f["size"] for path, f in entries.items()} == {
        path: len(data) for path, data in FILES.items()
    }
    assert len(entries[WEIGHTS]["sha256"]) == 64
    assert entries["config.json"]["sha256"] is None


def test_the_size_is_known_before_any_file_is_asked_for(hub: FakeHub, space: Workspace) -> None:
    seen: list[tuple[PullProgress, set[str]]] = []
    pull(REPO, workspace=space, progress=lambda p: seen.append((p, hub.fetched_files())))

    first, asked = seen[0]
    assert (first.stage, first.done_bytes, first.total_bytes) == ("planned", 0, TOTAL)
    assert asked == set()
    reports = [p for p, _ in seen]
    assert reports[-1] == PullProgress("complete", TOTAL, TOTAL)
    done = [p.done_bytes for p in reports]
    assert done == sorted(done)
    # At least one report within the weights, which are 2.5 MB.
    assert [p for p in reports if p.file == WEIGHTS and p.stage == "downloading"][1:]


def test_small_files_come_before_weights(hub: FakeHub, space: Workspace) -> None:
    pull(REPO, workspace=space)
    files = [r.file for r in hub.requests if r.file]
    assert files[-1] == WEIGHTS


def test_plan_and_dry_run_write_and_fetch_nothing(hub: FakeHub, space: Workspace) -> None:
    todo = plan(REPO, workspace=space)
    result = pull(REPO, workspace=space, dry_run=True)

    assert result.plan == dataclasses.replace(todo, bytes_free=result.plan.bytes_free)
    assert (todo.bytes_total, todo.bytes_to_download, todo.complete) == (TOTAL, TOTAL, False)
    assert todo.commit == hub.repos[REPO].branches["main"]
    assert {f.path for f in todo.files} == set(FILES)
    assert hub.fetched_files() == set()
    assert not space.home.exists()


def test_a_second_pull_of_a_complete_model_does_nothing(hub: FakeHub, space: Workspace) -> None:
    pull(REPO, workspace=space)
    before = len(hub.requests)
    result = pull(REPO, workspace=space)

    commit = hub.repos[REPO].branches["main"]
    assert result.already_complete
    assert result.bytes_downloaded == 0
    assert result.summary == f"{NAME} is already complete at commit {commit[:12]}"
    assert [r.file for r in hub.requests[before:]] == [""]


def test_a_branch_that_moves_is_followed_and_recorded(hub: FakeHub, space: Workspace) -> None:
    first = pull(REPO, workspace=space)
    (first.path / "notes.md").write_text("mine")
    changed = FILES | {"config.json": b'{"model_type": "llama", "new": 1}'}
    commit = hub.commit(REPO, changed)
    result = pull(REPO, workspace=space)

    source = read_source(result.path)
    assert source is not None
    assert source.commit == commit != first.plan.commit
    files = model_files(result.path)
    assert files.pop("notes.md") == b"mine"
    assert files == changed
    # Unchanged files are taken from the older folder.
    assert result.bytes_downloaded == len(changed["config.json"])
    assert len(hub.asked(WEIGHTS, "cdn")) == 1
    assert [p.name for p in space.models.iterdir()] == [NAME]


def test_a_revision_is_pinned_and_stands_beside_the_default(
    hub: FakeHub, space: Workspace
) -> None:
    old = hub.repos[REPO].branches["main"]
    hub.commit(REPO, FILES | {"config.json": b'{"model_type": "phi"}'})
    pull(REPO, workspace=space)
    pinned = pull(f"{REPO}@{old}", workspace=space)

    assert pinned.path == space.models / f"{NAME}@{old}" == resolve(f"{REPO}@{old}", space)
    assert model_files(pinned.path) == FILES
    assert [m.model_type for m in installed(space)] == ["phi", "llama"]
    # A pinned commit that is here needs no hub.
    before = len(hub.requests)
    assert pull(REPO, revision=old, workspace=space).already_complete
    assert len(hub.requests) == before


def test_a_registry_name_goes_to_its_own_folder(hub: FakeHub, space: Workspace) -> None:
    hub.commit(REGISTRY["phi-2"].repo, FILES)
    result = pull("phi-2", workspace=space)
    assert result.path == space.models / "phi-2" == resolve("phi-2", space)
    assert pull("microsoft/phi-2", workspace=space).already_complete


def test_without_hard_links_files_are_copied(
    hub: FakeHub, space: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "link", refuse)
    path = pull(REPO, workspace=space).path
    (path / "tokenizer.json").unlink()
    assert pull(REPO, workspace=space).bytes_downloaded == len(FILES["tokenizer.json"])
    assert model_files(path) == FILES


def test_the_licence_of_a_registered_model_is_named(hub: FakeHub, space: Workspace) -> None:
    card = REGISTRY["llama-2-13b-chat"]
    hub.commit(card.repo, FILES)
    hub.repos[card.repo].gated = "all"
    with pytest.raises(HubError, match=r"accept the Llama 2 licence at https://"):
        pull(card.name, workspace=space)
