"""ECInstruct from the hub as dataset folders, one for each setting.

    datasets/ecinstruct/
      train.jsonl, val.jsonl      what the paper trains on: IND_Diverse_Instruction
      test.jsonl                  the test rows of every setting
      SETTING/{train,val,test}.jsonl
      ECINSTRUCT.json             repository, commit and numbers of rows

The download stays beside it (``datasets/ecinstruct.hub``), so that another pull fetches
only what changed. Rows get ids that say what they are; upstream has none. Upstream keeps
the judgments of ranking rows apart: where its ``label.json`` is at hand, they are put
into the rows, and NDCG can be computed.
"""

from __future__ import annotations

import json
import shutil
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ecellm_mlx import workspace as workspaces
from ecellm_mlx.data import rows as rows_module
from ecellm_mlx.data.json_items import Finding, items
from ecellm_mlx.data.rows import Row
from ecellm_mlx.data.schema import row_from
from ecellm_mlx.errors import DataError
from ecellm_mlx.files import ensure_folder, put_back, swap_in, write_atomic, write_json
from ecellm_mlx.hub import download
from ecellm_mlx.models.registry import DEFAULT_REVISION, ModelName
from ecellm_mlx.tasks.registry import TASKS
from ecellm_mlx.workspace import Workspace

REPO = "NingLab/ECInstruct"
FOLDER = "ecinstruct"
DOWNLOAD = "ecinstruct.hub"
SUMMARY = "ECINSTRUCT.json"
TRAINED_ON = "IND_Diverse_Instruction"
SPLITS = {"train": "train", "val": "val", "validation": "val", "test": "test"}
# The evaluator's judgments belong to the test rows of ranking in every setting.
LABEL_FILE = "label.json"


@dataclass(frozen=True)
class Pulled:
    """The dataset's folder, its commit, and rows by setting and split."""

    path: Path
    commit: str
    rows: dict[str, dict[str, int]]
    judged: bool


def name(repo: str = REPO, revision: str | None = None) -> ModelName:
    """The dataset as the hub knows it."""
    return ModelName(DOWNLOAD, repo, revision or DEFAULT_REVISION, None, kind="dataset")


def pull(
    repo: str = REPO,
    *,
    revision: str | None = None,
    labels: Path | None = None,
    workspace: Workspace | None = None,
    progress: download.Report | None = None,
    endpoint: str | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> Pulled:
    """Fetch the dataset, or what is missing of it, and write it by setting.

    Args:
        repo: the repository.
        revision: branch, tag or commit.
        labels: the published ``label.json``, where the repository has none.
        workspace: where to.
        progress: told of the download.
        endpoint: the hub's address.
        say: told which file is read.

    Raises:
        HubError, StorageError: as ``download.pull``.
        DataError: the files are not rows of ECInstruct.
    """
    home = workspace or workspaces.current()
    result = download.pull(
        name(repo, revision), workspace=home, progress=progress, endpoint=endpoint
    )
    own = result.path / LABEL_FILE
    return convert(
        result.path,
        home.datasets / FOLDER,
        commit=result.plan.commit,
        repo=repo,
        labels=labels or (own if own.exists() else None),
        say=say,
    )


def convert(
    source: Path,
    target: Path,
    *,
    commit: str = "",
    repo: str = REPO,
    labels: Path | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> Pulled:
    """Write the rows of the published files by setting; ``target`` is replaced as a whole.

    Raises:
        DataError: no file of rows, a row that is wrong, labels that do not fit, or a
            ``target`` that is something else.
    """
    if target.exists() and not (target / SUMMARY).exists():
        raise DataError(
            f"{target} is there already and was not pulled from the hub",
            cure="move it away and pull again",
        )
    by_setting: dict[str, dict[str, list[Row]]] = defaultdict(lambda: defaultdict(list))
    files = sorted(path for path in source.glob("*.json*") if path.stem in SPLITS)
    if not files:
        raise DataError(
            f"{source} holds no rows", expected="train.json, validation.json and test.json"
        )
    for path in files:
        say(f"reading {path.name}")
        for row in _rows(path):
            by_setting[row.setting][row.split].append(row)
    if labels:
        for by_split in by_setting.values():
            if "test" in by_split:
                by_split["test"] = _judged(by_split["test"], labels)
    partial = target.with_name(target.name + ".partial")
    put_back(target)
    shutil.rmtree(partial, ignore_errors=True)
    ensure_folder(partial)
    for setting, by_split in by_setting.items():
        folder = ensure_folder(partial / setting)
        for split, members in by_split.items():
            _write(folder / f"{split}.jsonl", members)
    for split in ("train", "val"):
        if trained_on := by_setting.get(TRAINED_ON, {}).get(split):
            _write(partial / f"{split}.jsonl", trained_on)
    if tested := [
        row for setting in sorted(by_setting) for row in by_setting[setting].get("test", [])
    ]:
        _write(partial / "test.jsonl", tested)
    counts = {
        setting: {split: len(members) for split, members in by_split.items()}
        for setting, by_split in sorted(by_setting.items())
    }
    write_json(partial / SUMMARY, {"repo": repo, "commit": commit, "rows": counts})
    swap_in(partial, target)
    return Pulled(target, commit, counts, labels is not None)


def _rows(path: Path) -> Iterator[Row]:
    """Rows of one published file, with ids of their own."""
    seen: Counter[tuple[str, str]] = Counter()
    split = SPLITS[path.stem]
    for line, value in items(path):
        if isinstance(value, Finding):
            raise value.error(path)
        try:
            row = row_from(_own_split(value, split), "-", split)
        except DataError as error:
            raise Finding.of(line, error).error(path) from None
        key = row.task, row.setting
        number = seen[key]
        seen[key] += 1
        short = TASKS[row.task].short
        yield replace(row, id=f"{short}/{row.setting}/{split}/{number:05d}")


def _own_split(value: Any, split: str) -> Any:
    """A row whose split is the name that we use for it."""
    if not isinstance(value, dict):
        return value
    named = value.get("split")
    return {**value, "split": SPLITS.get(named, split) if isinstance(named, str) else split}


def _judged(tested: list[Row], labels: Path) -> list[Row]:
    """Rows with their judgments; a setting with none of the ranking rows is left alone."""
    if not any(TASKS[row.task].kind.judged for row in tested):
        return tested
    return rows_module.attach_judgments(tested, labels)


def _write(path: Path, members: list[Row]) -> None:
    lines = (json.dumps(asdict(row), ensure_ascii=False) for row in members)
    write_atomic(path, "".join(line + "\n" for line in lines))
