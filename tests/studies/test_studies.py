"""Studies: the right rows in every arm, one report, and no run made twice."""

from __future__ import annotations

import fcntl
import json
from pathlib import Path
from typing import Any

import pytest

from ecellm_mlx import jobs, sample
from ecellm_mlx.data import rows
from ecellm_mlx.data.holdout import load, split
from ecellm_mlx.errors import DataError, JobError, UsageError
from ecellm_mlx.jobs import RunDirectory
from ecellm_mlx.studies import arms as study_arms
from ecellm_mlx.studies import study as studies
from ecellm_mlx.studies.arms import Arm, Options, Section

TASKS = ("Product_Matching", "Sentiment_Analysis")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A dataset of real rows of two tasks; each has a category, the sentiment rows two."""
    folder = tmp_path / "data"
    folder.mkdir()
    for name, count in (("train", 24), ("val", 4), ("test", 6)):
        lines = (sample.folder() / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
        chosen: list[str] = []
        for task in TASKS:
            items = [item for item in map(json.loads, lines) if item["task"] == task]
            for n, item in enumerate(items[:count]):
                item["category"] = "matching" if task == TASKS[0] else ("dress", "top")[n % 2]
                chosen.append(json.dumps(item) + "\n")
        (folder / f"{name}.jsonl").write_text("".join(chosen), encoding="utf-8")
    return folder


def arms_of(section: Section) -> dict[str, Arm]:
    return {arm.name: arm for arm in section.arms}


def values(lines: list[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in lines]


def identities(lines: list[str]) -> set[str]:
    return {value["id"] for value in values(lines)}


def test_scaling_nests_its_rows(data: Path) -> None:
    (section,) = study_arms.scaling(
        study_arms.read(data, "category"), Options(sizes=(8, 24, 999))
    )
    arms = arms_of(section)
    assert list(arms) == ["base", "8 rows", "24 rows", "all 48 rows"]
    assert [len(arm.train) for arm in arms.values()] == [0, 8, 24, 48]
    assert identities(arms["8 rows"].train) < identities(arms["24 rows"].train)
    assert {v["task"] for v in values(arms["8 rows"].train)} == set(TASKS)
    with pytest.raises(UsageError, match="48 training rows"):
        study_arms.scaling(study_arms.read(data, "category"), Options(sizes=(48,)))


def test_diversity_changes_instructions_only(data: Path) -> None:
    (section,) = study_arms.diversity(study_arms.read(data, "category"), Options())
    one, many, _ = section.arms
    assert one.name == "1 instruction"
    assert len({(v["task"], v["instruction"]) for v in values(one.train)}) == len(TASKS)
    assert len({v["instruction"] for v in values(many.train)}) > len(TASKS)
    for a, b in zip(values(one.train), values(many.train), strict=True):
        assert {**a, "instruction": ""} == {**b, "instruction": ""}


def test_holdout_trains_on_as_many_rows_without_and_with(data: Path) -> None:
    found = study_arms.leave_one_out(study_arms.read(data, "category"), Options())
    assert [s.title for s in found] == [f"category: {c}" for c in ("matching", "dress", "top")]
    without, with_it, base = found[1].arms
    assert len(without.train) == len(with_it.train) == 36
    assert "dress" not in {v["category"] for v in values(without.train)}
    assert "dress" in {v["category"] for v in values(with_it.train)}
    assert base.train == []
    assert {v["category"] for v in values(found[1].test)} == {"dress"}
    assert all(v["setting"].startswith("OOD_") for v in values(found[1].test))
    with pytest.raises(DataError, match="need the category 'hat'"):
        study_arms.leave_one_out(
            study_arms.read(data, "category"), Options(categories=("hat",))
        )
    with pytest.raises(DataError, match=r"no brand can be left out.*--by"):
        study_arms.leave_one_out(study_arms.read(data, "brand"), Options(by="brand"))


def test_generalist_and_specialists_answer_the_same_rows(data: Path) -> None:
    (section,) = study_arms.generalist(study_arms.read(data, "category"), Options())
    arms = arms_of(section)
    assert list(arms) == ["generalist", "only PM", "only SA", "base"]
    assert {v["task"] for v in values(arms["only SA"].train)} == {"Sentiment_Analysis"}
    assert arms["only SA"].tasks == ("Sentiment_Analysis",)
    assert len(arms["generalist"].train) == 48


@pytest.fixture
def follow() -> Any:
    """Runs a job in this process; counts what it ran. ``stop`` names one to leave alone."""

    class Here:
        def __init__(self) -> None:
            self.ran: list[str] = []
            self.stop = ""

        def __call__(self, run: RunDirectory) -> dict[str, Any]:
            if self.stop and self.stop in str(run.path):
                return {"outcome": "stopped"}
            self.ran.append(str(run.path))
            assert jobs.execute(run) == 0
            finished = [e for e in run.reader().read() if e.name == "finished"][-1]
            return {"outcome": finished.outcome, **finished.results}  # type: ignore[attr-defined]

    return Here()


def study(data: Path, tiny: Path, kind: str = "scaling", **values: Any) -> studies.Study:
    return studies.Study(
        kind, str(tiny), data,
        overrides=("rank=2", "epochs=1", "batch_size=8", "max_seq_length=512"),
        options=Options(sizes=(8,)), limit=8, **values,
    )  # fmt: skip


def test_a_stopped_study_goes_on_and_repeats_nothing(
    tiny: Path, data: Path, tmp_path: Path, follow: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "start", lambda run: None)
    out, said = tmp_path / "study", list[str]()
    follow.stop = "all-48-rows/train"
    with pytest.raises(JobError, match="same command again"):
        studies.run(study(data, tiny), out, follow=follow, say=said.append)
    before = list(follow.ran)
    assert [Path(p).parent.name for p in before] == ["base", "8-rows", "8-rows"]
    assert not (out / "report.html").exists()
    follow.stop = ""
    results = studies.run(study(data, tiny), out, follow=follow, say=said.append)
    assert len(set(follow.ran)) == len(follow.ran) == len(before) + 2
    (section,) = results["sections"]
    assert [arm["rows"] for arm in section["arms"]] == [0, 8, 48]
    for arm in section["arms"]:
        assert set(arm["scores"]) == set(TASKS)
    assert json.loads((out / "results.json").read_text()) == results
    text = (out / "report.md").read_text()
    assert "|  |  |  |  | 8 rows |" in text
    assert "subset of 8 rows" in text
    assert "<svg" in (out / "report.html").read_text()
    # Once more: nothing is computed, and the report is the same.
    ran = list(follow.ran)
    assert studies.run(study(data, tiny), out, follow=follow, say=said.append) == results
    assert follow.ran == ran
    with (out / ".lock").open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        with pytest.raises(JobError, match="another command is at work"):
            studies.run(study(data, tiny), out, follow=follow, say=said.append)
    with pytest.raises(JobError, match=r"holds another study \(decoding differ\)"):
        studies.run(study(data, tiny, decoding="paper"), out, follow=follow, say=said.append)


@pytest.mark.proof
def test_a_study_of_sections(
    tiny: Path, data: Path, tmp_path: Path, follow: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "start", lambda run: None)
    found = studies.run(
        study(data, tiny, "generalist"), tmp_path / "g", follow=follow, say=lambda _: None
    )
    arms = {arm["name"]: arm for arm in found["sections"][0]["arms"]}
    assert set(arms["only PM"]["scores"]) == {"Product_Matching"}
    text = (tmp_path / "g" / "report.md").read_text()
    assert "generalist → only PM" in text


def test_split_leaves_a_category_out(data: Path, tmp_path: Path) -> None:
    done = split(data, "dress", tmp_path / "out")
    assert (done.train, done.val, done.test_kept, done.test_held_out) == (36, 6, 9, 3)
    assert done.left_out == 12 + 2
    folder = rows.dataset(tmp_path / "out")
    for file in (folder.train, folder.val):
        assert file is not None
        assert "dress" not in {item.category for item in load(file)}
    assert folder.test is not None
    for item in load(folder.test):
        assert item.row.setting.startswith("OOD_") == (item.category == "dress")
    everything = [
        row.id for name in ("train", "val", "test") for row in rows.load(data / f"{name}.jsonl")
    ]
    written = [row.id for file in (tmp_path / "out").iterdir() for row in rows.load(file)]
    assert sorted(written) == sorted(everything), "no row is lost or doubled"


def test_split_of_a_file_and_of_another_field(data: Path, tmp_path: Path) -> None:
    done = split(data / "train.jsonl", "Product_Matching", tmp_path / "out", by="task")
    assert (done.train, done.val, done.test_held_out, done.left_out) == (24, 0, 24, 0)
    path = tmp_path / "own.jsonl"
    items = [json.loads(line) for line in (data / "train.jsonl").read_text().splitlines()]
    matching = [item for item in items if item["task"] == "Product_Matching"]
    for n, item in enumerate(matching):
        del item["category"], item["id"]
        item["input"] = json.dumps({**json.loads(item["input"]), "category": f"c{n % 2}"})
    path.write_text("".join(json.dumps(item) + "\n" for item in matching))
    done = split(path, "c1", tmp_path / "inner")
    assert (done.train, done.test_held_out) == (12, 12)
    written = rows.load(tmp_path / "inner" / "test.jsonl")
    assert [row.id for row in written] == [f"own:{n}" for n in range(2, 25, 2)]


def test_split_refusals(refused: Any, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    common = ("data", "split", data, "--out", out)
    assert "'hat': expected one of matching (34), dress (17), top (17)" in refused(
        *common, "--holdout-category", "hat"
    )
    assert "no row has a brand" in refused(*common, "--holdout-category", "x", "--by", "brand")
    out.mkdir()
    (out / "x").write_text("")
    assert "is not empty" in refused(*common, "--holdout-category", "dress")


def test_study_refusals_leave_nothing_behind(
    refused: Any, tiny: Path, data: Path, tmp_path: Path
) -> None:
    out = tmp_path / "study"
    common = ("--data", data, "--out", out, "--size", "8")
    assert "there is no model 'x'" in refused("study", "scaling", "--model", "x", *common)
    bad = refused("study", "scaling", "--model", tiny, *common, "--set", "rnak=3")
    assert "'rnak'" in bad
    assert "study scalin is unknown" in refused(
        "study", "scalin", "--model", tiny, *common, status=2
    )
    assert not out.exists()
