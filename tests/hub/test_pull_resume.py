"""A pull that breaks off, at the hub, on the way or here, goes on and mixes nothing."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ecellm_mlx.errors import HubError, StorageError
from ecellm_mlx.hub import client
from ecellm_mlx.hub import download as hub_module
from ecellm_mlx.hub.download import PullProgress, plan, pull
from ecellm_mlx.models.registry import installed
from ecellm_mlx.workspace import Workspace

from .fake_hub import FakeHub
from .tiny_repository import FILES, NAME, REPO, TOTAL, WEIGHTS, model_files, weights

pytestmark = pytest.mark.unit


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
    monkeypatch.setattr(client, "RETRIES", 0)
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
    code = f"from ecellm_mlx.hub.download import pull; pull({REPO!r})"
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
    monkeypatch.setattr(client, "RETRIES", 0)
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


def test_a_file_that_went_missing_is_fetched_again(hub: FakeHub, space: Workspace) -> None:
    path = pull(REPO, workspace=space).path
    (path / "tokenizer.json").unlink()
    result = pull(REPO, workspace=space)
    assert result.bytes_downloaded == len(FILES["tokenizer.json"])
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
    original = client._writing

    def limited(path: Path, mode: str):  # type: ignore[no-untyped-def]
        if path.name.startswith(WEIGHTS):
            # Every write to this device fails as one to a full disk does.
            return original(Path("/dev/full"), "wb")
        return original(path, mode)

    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    monkeypatch.setattr(client, "_writing", limited)
    with pytest.raises(StorageError, match=r"the disk is full; free some space"):
        pull(REPO, workspace=space)
    monkeypatch.setattr(client, "_writing", original)
    assert pull(REPO, workspace=space).bytes_downloaded == len(FILES[WEIGHTS])


def test_two_pulls_of_one_model_do_not_mix(hub: FakeHub, space: Workspace) -> None:
    partial = space.models / f"{NAME}.partial"
    partial.mkdir(parents=True)
    with (partial / ".lock").open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(HubError, match=r"another pull of shop--tiny-model is running"):
            pull(REPO, workspace=space)
    assert model_files(pull(REPO, workspace=space).path) == FILES
