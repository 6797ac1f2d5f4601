"""Pulling ECInstruct from a hub on the loopback, and writing it by setting."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from ecellm_mlx import sample
from ecellm_mlx.data import rows
from ecellm_mlx.errors import DataError, HubError
from ecellm_mlx.hub import ecinstruct
from ecellm_mlx.workspace import Workspace

from .fake_hub import FakeHub

pytestmark = pytest.mark.unit

IND, OOD = "IND_Diverse_Instruction", "OOD_Diverse_Instruction"
UNSEEN, SHOT = "IND_Unseen_Instruction", "IND_Diverse_Instruction_1-shot"


def upstream(
    split: str, settings: tuple[str, ...]
) -> tuple[list[dict[str, Any]], list[list[str]]]:
    """Rows as upstream writes them, without ids and judgments, and the judgments apart."""
    path = sample.folder() / f"{'val' if split == 'validation' else split}.jsonl"
    found, labels = [], []
    for line in path.read_text(encoding="utf-8").splitlines():
        item = json.loads(line)
        if item["setting"] != IND:
            continue
        judged = item.get("labels")
        for name in ("id", "labels", "source", "license"):
            item.pop(name, None)
        if judged:
            labels.append(judged)
            item["task"] = "Query_Product_Rank"
        for setting in settings:
            example = json.dumps({"input": "x"}) if setting == SHOT else None
            found.append(
                item | {"setting": setting, "split": split, "few_shot_example": example}
            )
    return found, labels


@pytest.fixture(scope="module")
def files() -> dict[str, bytes]:
    train, _ = upstream("train", (IND, "IND_Single_Instruction"))
    val, _ = upstream("validation", (IND,))
    test, labels = upstream("test", (IND, UNSEEN, SHOT))
    content = {"train.json": train, "validation.json": val, "test.json": test}
    return {name: json.dumps(value).encode() for name, value in content.items()} | {
        "label.json": json.dumps(labels).encode()
    }


@pytest.fixture
def hub(empty_hub: FakeHub, files: dict[str, bytes]) -> FakeHub:
    """A hub with the dataset."""
    extra = {"README.md": b"# ECInstruct", "loader.py": b"raise SystemExit"}
    empty_hub.commit(f"datasets/{ecinstruct.REPO}", files | extra)
    return empty_hub


def test_every_setting_becomes_a_dataset(hub: FakeHub, space: Workspace, files: Any) -> None:
    done = ecinstruct.pull(workspace=space)
    assert done.path == space.datasets / "ecinstruct"
    assert hub.fetched_files() == set(files)
    everything = json.loads(files["train.json"])
    train = rows.load(done.path / "train.jsonl")
    assert {row.setting for row in train} == {IND}
    assert len(train) == len(everything) / 2
    assert rows.dataset(done.path).val is not None
    test = rows.load(done.path / "test.jsonl")
    assert {row.setting for row in test} == {IND, UNSEEN, SHOT}
    for setting in (IND, UNSEEN, SHOT):
        part = rows.load(done.path / setting / "test.jsonl")
        assert [row for row in test if row.setting == setting] == part
    assert (done.path / "IND_Single_Instruction" / "train.jsonl").exists()
    assert len({row.id for row in (*train, *test)}) == len(train) + len(test)
    assert test[0].id.split("/")[1:3] == [IND, "test"]
    ranked = [row for row in test if row.task == "Query_Product_Ranking"]
    assert ranked
    assert all(row.labels for row in ranked)
    summary = json.loads((done.path / ecinstruct.SUMMARY).read_text())
    assert (
        summary["commit"]
        == done.commit
        == hub.repos[f"datasets/{ecinstruct.REPO}"].branches["main"]
    )
    assert summary["rows"][IND]["val"] == len(json.loads(files["validation.json"]))


def test_an_interrupted_pull_goes_on(hub: FakeHub, space: Workspace, files: Any) -> None:
    hub.drops["train.json"] = [1000] + [0] * 20
    with pytest.raises(HubError, match="pull again later"):
        ecinstruct.pull(workspace=space)
    hub.drops.clear()
    before = hub.body_bytes("validation.json")
    done = ecinstruct.pull(workspace=space)
    assert hub.body_bytes("validation.json") == before, "what is here is not fetched again"
    assert (done.path / "train.jsonl").exists()
    # Nothing changed: another pull fetches nothing.
    asked = len(hub.requests)
    ecinstruct.pull(workspace=space)
    assert not [r for r in hub.requests[asked:] if r.file]


def test_another_commit_replaces_the_folder_as_a_whole(
    hub: FakeHub, space: Workspace, files: Any
) -> None:
    first = ecinstruct.pull(workspace=space)
    hub.commit(f"datasets/{ecinstruct.REPO}", {"test.json": files["test.json"]})
    second = ecinstruct.pull(workspace=space)
    assert second.commit != first.commit
    assert not (second.path / "train.jsonl").exists()
    assert not second.judged
    assert sorted(p.name for p in space.datasets.iterdir()) == ["ecinstruct", "ecinstruct.hub"]


def test_a_folder_of_the_users_is_left_alone(hub: FakeHub, space: Workspace) -> None:
    own = space.datasets / "ecinstruct"
    own.mkdir(parents=True)
    (own / "train.jsonl").write_text("mine")
    with pytest.raises(DataError, match="was not pulled from the hub"):
        ecinstruct.pull(workspace=space)
    assert (own / "train.jsonl").read_text() == "mine"


def test_bad_content_names_file_and_line(tmp_path: Path, files: Any) -> None:
    (tmp_path / "in").mkdir()
    value = json.loads(files["test.json"])
    del value[2]["output"]
    (tmp_path / "in" / "test.json").write_text(json.dumps(value, indent=0))
    with pytest.raises(DataError, match=r"test\.json:\d+: field 'output' is missing"):
        ecinstruct.convert(tmp_path / "in", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    (tmp_path / "in" / "test.json").write_bytes(files["test.json"])
    (tmp_path / "labels.json").write_text("[]")
    with pytest.raises(DataError, match="does not fit row"):
        ecinstruct.convert(tmp_path / "in", tmp_path / "out", labels=tmp_path / "labels.json")


def test_the_command(hub: FakeHub, ecellm: Any, refused: Any, workspace_home: Path) -> None:
    environment = {**os.environ, "HF_HUB_OFFLINE": "0"}
    dry = ecellm("data", "pull", "--dry-run", env=environment)
    assert dry.returncode == 0, dry.stderr
    assert "4 files" in dry.stderr
    assert not (workspace_home / "datasets").exists()
    done = ecellm("data", "pull", "--json", env=environment)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert Path(result["path"]) == workspace_home / "datasets" / "ecinstruct"
    assert result["rows"][IND]["train"] > 0
    message = refused("data", "pull", "nobody/nothing", env=environment)
    assert "nobody/nothing does not exist" in message
