"""Pulling a model from a hub on the loopback: size, resume, pinning, refusals."""

from __future__ import annotations

import dataclasses
import fcntl
import json
import os
import random
import shutil
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub import constants

from ecellm_mlx.errors import HubError, ModelError, StorageError, UsageError
from ecellm_mlx.models import hub as hub_module
from ecellm_mlx.models import hub_client
from ecellm_mlx.models.fingerprint import verify_safetensors
from ecellm_mlx.models.hub import PullProgress, plan, pull
from ecellm_mlx.models.registry import REGISTRY, installed, resolve
from ecellm_mlx.models.source import read_source
from ecellm_mlx.workspace import Workspace

from .fake_hub import FakeHub

REPO = "shop/tiny-model"
NAME = "shop--tiny-model"
WEIGHTS = "model.safetensors"


def weights(size: int, seed: int = 0) -> bytes:
    """A safetensors file with one tensor of ``size`` bytes."""
    entry = {"w": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}
    header = json.dumps(entry).encode()
    return struct.pack("<Q", len(header)) + header + random.Random(seed).randbytes(size)


FILES = {
    "config.json": b'{"model_type": "llama"}',
    "generation_config.json": b"{}",
    WEIGHTS: weights(2_500_000),
    "tokenizer.json": b'{"model": {}}',
    "tokenizer.model": b"sentencepiece",
    "tokenizer_config.json": b"{}",
    "merges.txt": b"a b\n",
    "chat_template.jinja": b"{{ messages }}",
}
UNWANTED = {
    "README.md": b"# model",
    "pytorch_model.bin": b"pickle",
    "pytorch_model.bin.index.json": b"{}",
    "consolidated.safetensors": weights(10),
    "model.gguf": b"GGUF",
    "modeling_tiny.py": b"raise SystemExit",
    "tokenizer_tiny.py": b"raise SystemExit",
    "onnx/model.onnx": b"onnx",
    "onnx/config.json": b"{}",
    "original/model.safetensors": weights(10),
    ".gitattributes": b"",
    ".ecellm-source.json": b"{}",
}
TOTAL = sum(map(len, FILES.values()))


@pytest.fixture(scope="module", autouse=True)
def client() -> Iterator[None]:
    """One HTTP client of the hub's library for all tests, without anyone's proxy."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("NO_PROXY", "127.0.0.1")
        huggingface_hub.close_session()
        yield
        huggingface_hub.close_session()


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """A hub with one model, in an environment without anyone's token."""
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_OIDC_RESOURCE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub_client, "RETRY_WAIT_S", 0.0)
    with FakeHub() as fake:
        monkeypatch.setenv("HF_ENDPOINT", fake.url)
        fake.commit(REPO, FILES | UNWANTED)
        yield fake


@pytest.fixture
def space(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path / "home")


def model_files(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir() if not p.name.startswith(".")}


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


def test_a_lost_connection_is_taken_up_where_it_broke(hub: FakeHub, space: Workspace) -> None:
    hub.drops[WEIGHTS] = [1_000_000, 300_000]
    result = pull(REPO, workspace=space)

    assert [r.range for r in hub.asked(WEIGHTS, "cdn")] == [
        None,
        "bytes=1000000-",
        "bytes=1300000-",
    ]
    assert hub.body_bytes(WEIGHTS) == len(FILES[WEIGHTS])
    assert model_files(result.path) == FILES


def test_a_second_pull_fetches_only_what_the_first_did_not(
    hub: FakeHub, space: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub_client, "RETRIES", 0)
    hub.drops[WEIGHTS] = [1_000_000, 0]
    with pytest.raises(HubError, match=r"failed 1 times at 1,000,000 of .*goes on from there"):
        pull(REPO, workspace=space)
    assert not (space.models / NAME).exists()
    assert installed(space) == []

    before = len(hub.requests)
    todo = plan(REPO, workspace=space)
    assert todo.bytes_to_download == len(FILES[WEIGHTS]) - 1_000_000
    reports: list[PullProgress] = []
    result = pull(REPO, workspace=space, progress=reports.append)

    assert reports[0].done_bytes == todo.bytes_present
    asked = [(r.file, r.range) for r in hub.requests[before:] if r.file and r.server == "cdn"]
    assert asked == [(WEIGHTS, "bytes=1000000-")]
    assert {r.file for r in hub.requests[before:] if r.file} == {WEIGHTS}
    assert result.bytes_downloaded == len(FILES[WEIGHTS]) - 1_000_000
    assert model_files(result.path) == FILES


def test_a_pull_that_its_caller_stops_can_go_on(hub: FakeHub, space: Workspace) -> None:
    def stop(progress: PullProgress) -> None:
        if progress.file == WEIGHTS:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pull(REPO, workspace=space, progress=stop)
    present = plan(REPO, workspace=space).bytes_present
    assert present >= TOTAL - len(FILES[WEIGHTS]) + hub_module.REPORT_EVERY
    result = pull(REPO, workspace=space)
    assert result.bytes_downloaded == TOTAL - present
    assert model_files(result.path) == FILES


def test_a_killed_pull_can_go_on(hub: FakeHub, space: Workspace) -> None:
    hub.stall = {WEIGHTS}
    code = f"from ecellm_mlx.models.hub import pull; pull({REPO!r})"
    home = str(space.home)
    settings = {"ECELLM_HOME": home, "HF_HOME": home, "HF_HUB_OFFLINE": "0"}
    process = subprocess.Popen([sys.executable, "-c", code], env=os.environ | settings)
    part = space.models / f"{NAME}.partial" / f"{WEIGHTS}.part"
    try:
        assert hub.stalled.wait(30)
        half = len(FILES[WEIGHTS]) // 2
        while process.poll() is None and (not part.exists() or part.stat().st_size < half):
            time.sleep(0.01)
    finally:
        process.kill()
        process.wait()
    hub.stall = set()
    result = pull(REPO, workspace=space)

    assert hub.asked(WEIGHTS, "cdn")[-1].range == f"bytes={half}-"
    assert model_files(result.path) == FILES


def test_a_hub_that_ignores_ranges_sends_the_file_anew(hub: FakeHub, space: Workspace) -> None:
    hub.ignore_range = True
    hub.drops[WEIGHTS] = [2_000_000]
    reports: list[PullProgress] = []
    result = pull(REPO, workspace=space, progress=reports.append)

    assert model_files(result.path) == FILES
    assert [r.status for r in hub.asked(WEIGHTS, "cdn")] == [200, 200]
    # What had to be fetched twice counts once.
    assert max(p.done_bytes for p in reports) == TOTAL


def test_a_busy_hub_is_asked_again(hub: FakeHub, space: Workspace) -> None:
    hub.failures = {"config.json": [503, 429], WEIGHTS: [500]}
    assert model_files(pull(REPO, workspace=space).path) == FILES


def test_a_hub_that_stays_broken_is_given_up(hub: FakeHub, space: Workspace) -> None:
    hub.failures = {WEIGHTS: [503] * 100}
    with pytest.raises(HubError, match=r"failed 6 times .*HTTP status 503"):
        pull(REPO, workspace=space)


@pytest.mark.parametrize(("status", "cure"), [(403, "check your token"), (404, "try again")])
def test_a_refusal_is_not_repeated(
    hub: FakeHub, space: Workspace, status: int, cure: str
) -> None:
    hub.failures = {WEIGHTS: [status]}
    with pytest.raises(HubError, match=rf"refused {REPO}: got HTTP status {status}; {cure}"):
        pull(REPO, workspace=space)
    assert len(hub.asked(WEIGHTS, "cdn")) == 1


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


def test_a_branch_that_moves_during_a_pull_does_not_mix_commits(
    hub: FakeHub, space: Workspace
) -> None:
    old = hub.repos[REPO].branches["main"]
    newer = {path: data + b" " for path, data in FILES.items()}

    def move(progress: PullProgress) -> None:
        if progress.stage == "planned":
            hub.commit(REPO, newer)

    result = pull(REPO, workspace=space, progress=move)
    assert result.plan.commit == old
    assert model_files(result.path) == FILES


def test_parts_of_another_commit_are_not_continued(
    hub: FakeHub, space: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub_client, "RETRIES", 0)
    hub.drops[WEIGHTS] = [1_000_000, 0]
    with pytest.raises(HubError):
        pull(REPO, workspace=space)
    newer = {**FILES, WEIGHTS: weights(2_500_000, seed=1)}
    del newer["merges.txt"]
    hub.commit(REPO, newer)
    result = pull(REPO, workspace=space)

    assert model_files(result.path) == newer
    assert hub.asked(WEIGHTS, "cdn")[-1].range is None
    assert result.bytes_downloaded == len(newer[WEIGHTS])


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


def test_a_file_that_went_missing_is_fetched_again(hub: FakeHub, space: Workspace) -> None:
    path = pull(REPO, workspace=space).path
    (path / "tokenizer.json").unlink()
    result = pull(REPO, workspace=space)
    assert result.bytes_downloaded == len(FILES["tokenizer.json"])
    assert model_files(path) == FILES


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


def test_a_swap_that_was_interrupted_loses_no_model(hub: FakeHub, space: Workspace) -> None:
    path = pull(REPO, workspace=space).path
    path.rename(path.with_name(f"{NAME}.old"))
    assert installed(space) == []
    result = pull(REPO, workspace=space)
    assert model_files(result.path) == FILES
    assert [p.name for p in space.models.iterdir()] == [NAME]


@pytest.mark.parametrize("file", [WEIGHTS, "config.json"])
def test_a_corrupted_file_is_removed_and_fetched_anew(
    hub: FakeHub, space: Workspace, file: str
) -> None:
    hub.corrupt = {file}
    with pytest.raises(HubError, match=rf"{file} arrived damaged and was removed: .*checksum"):
        pull(REPO, workspace=space)
    assert not list(space.models.glob(f"*/{file}*"))
    assert not (space.models / NAME).exists()
    hub.corrupt = set()
    assert model_files(pull(REPO, workspace=space).path) == FILES
    assert hub.asked(file)[-1].range is None


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


def test_the_licence_of_a_registered_model_is_named(hub: FakeHub, space: Workspace) -> None:
    card = REGISTRY["llama-2-13b-chat"]
    hub.commit(card.repo, FILES)
    hub.repos[card.repo].gated = "all"
    with pytest.raises(HubError, match=r"accept the Llama 2 licence at https://"):
        pull(card.name, workspace=space)


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


def test_a_full_disk_is_noticed_before_the_download(
    hub: FakeHub, space: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(space.home.parent)._replace(free=TOTAL - 1)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(
        StorageError, match=r"too little room .*expected 0.00 GB free.*free some"
    ):
        pull(REPO, workspace=space)
    assert hub.fetched_files() == set()


def test_a_disk_that_fills_up_keeps_what_arrived(
    hub: FakeHub, space: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = hub_client._writing

    def limited(path: Path, mode: str):  # type: ignore[no-untyped-def]
        if path.name.startswith(WEIGHTS):
            # Every write to this device fails as one to a full disk does.
            return original(Path("/dev/full"), "wb")
        return original(path, mode)

    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    monkeypatch.setattr(hub_client, "_writing", limited)
    with pytest.raises(StorageError, match=r"the disk is full; free some space"):
        pull(REPO, workspace=space)
    monkeypatch.setattr(hub_client, "_writing", original)
    assert pull(REPO, workspace=space).bytes_downloaded == len(FILES[WEIGHTS])


def test_a_folder_that_was_not_pulled_is_left_alone(hub: FakeHub, space: Workspace) -> None:
    folder = space.models / NAME
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    with pytest.raises(HubError, match=r"already there and was not pulled"):
        pull(REPO, workspace=space)
    assert model_files(folder) == {"config.json": b"{}"}


def test_two_pulls_of_one_model_do_not_mix(hub: FakeHub, space: Workspace) -> None:
    partial = space.models / f"{NAME}.partial"
    partial.mkdir(parents=True)
    with (partial / ".lock").open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(HubError, match=r"another pull of shop--tiny-model is running"):
            pull(REPO, workspace=space)
    assert model_files(pull(REPO, workspace=space).path) == FILES


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
