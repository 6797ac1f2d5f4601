"""The evaluation job: every row answered once, whatever happens, and figures of them."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from ecellm_mlx import jobs, sample
from ecellm_mlx.data import rows
from ecellm_mlx.errors import AdapterError, JobError, UsageError
from ecellm_mlx.evaluation import job, local, systems, thresholds
from ecellm_mlx.evaluation.calibration import Threshold
from ecellm_mlx.evaluation.journal import AnswerLog
from ecellm_mlx.evaluation.settings import EvaluationSettings
from ecellm_mlx.jobs import events
from ecellm_mlx.models import adapter_files

QUICK = ("PM", "SA", "PRP", "QPR")  # answered in one pass or two


def create(
    model: str, data: Path, *, out: Path | None = None, **settings: Any
) -> jobs.RunDirectory:
    return job.create(EvaluationSettings(model=model, data=data, **settings), out)


def run_here(run: jobs.RunDirectory) -> dict[str, Any]:
    context = jobs.JobContext(run)
    try:
        outcome, results = job.run_job(context)
    finally:
        context.close()
    return {"outcome": outcome, **results}


def test_both_decodings(tiny: Path, dataset: Path, tmp_path: Path) -> None:
    data = dataset / "test.jsonl"
    run = create(
        str(tiny), data, decodings=("paper", "valid"), batch_size=4, out=tmp_path / "run"
    )
    results = run_here(run)
    assert results["outcome"] == "finished"
    expected = [row.id for row in rows.load(data)]
    for name in ("predictions.jsonl", "predictions.valid.jsonl"):
        lines = [json.loads(line) for line in (run.path / name).read_text().splitlines()]
        assert [line["id"] for line in lines] == expected
        assert all(
            {"id", "task", "setting", "prediction"} <= line.keys() and "decoding" not in line
            for line in lines
        )
    valid = results["decodings"]["valid"]
    assert all(r["invalid"] == 0 for by_setting in valid.values() for r in by_setting.values())
    # A random model's free text is no answer.
    paper = results["decodings"]["paper"]
    assert all(r["invalid"] > 0 for by_setting in paper.values() for r in by_setting.values())
    metrics = json.loads((run.path / "metrics.json").read_text())
    assert metrics["n"] == len(expected)
    report = (run.path / "report.md").read_text(encoding="utf-8")
    assert re.search(r"run: model .*, no adapter, begun 20\d\d-.*, seed 42, .*mlx \d", report)
    assert [s.decoding for s in systems.load(run.path)] == ["paper", "valid"]
    assert metrics["subset"] is results["subset"] is False
    for task, by_setting in valid.items():
        for setting in by_setting:
            assert metrics["details"]["valid"][task][setting]["intervals"]["strict"]


def test_limit_is_a_flagged_subset(tiny: Path, dataset: Path, tmp_path: Path) -> None:
    run = create(str(tiny), dataset / "test.jsonl", limit=3, out=tmp_path / "run")
    results = run_here(run)
    assert results["n"] == 3
    assert results["subset"] is True
    assert len(results["decodings"]["valid"]) == 3, "every task keeps a row"
    assert "subset of the rows" in (run.path / "report.md").read_text()


def test_all_settings_and_both_spellings(tiny: Path, tmp_path: Path) -> None:
    data = tmp_path / "test.jsonl"
    items = [
        json.loads(line)
        for line in (sample.folder() / "test.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    names = {"Product_Relation_Predicition": "Product_Relation_Prediction"}
    chosen = [item for item in items if item["task"] in names][:9]
    chosen += [item for item in items if item["task"] == "Product_Matching"][:9]
    settings = [
        f"{domain}_{kind}"
        for domain in ("IND", "OOD")
        for kind in (
            "Single_Instruction", "Diverse_Instruction", "Unseen_Instruction",
            "Diverse_Instruction_1-shot",
        )
    ]  # fmt: skip
    for n, item in enumerate(chosen):
        item["setting"] = settings[n % len(settings)]
        item["task"] = names.get(item["task"], item["task"])
        item["few_shot_example"] = (
            {"input": "a", "output": "b"} if "shot" in item["setting"] else None
        )
    data.write_text("".join(json.dumps(item) + "\n" for item in chosen), encoding="utf-8")
    run = create(str(tiny), data, out=tmp_path / "run")
    scores = run_here(run)["decodings"]["valid"]
    assert {s for by_setting in scores.values() for s in by_setting} == set(settings)
    assert scores.keys() <= {"Product_Matching", "Product_Relation_Predicition"}
    one = create(
        str(tiny), data, tasks=("Product_Relation_Prediction",),
        settings=("OOD_Diverse_Instruction_1-shot", "IND_Single_Instruction"),
        out=tmp_path / "one",
    )  # fmt: skip
    assert set(one.job().config["tasks"]) == {"Product_Relation_Predicition"}


def test_groups_are_the_same_whatever_was_done(dataset: Path) -> None:
    found = rows.load(sample.folder() / "test.jsonl")
    shuffled = random.Random(0).sample(found, len(found))
    groups = local.groups(found, batch_size=4)
    assert groups == local.groups(shuffled, batch_size=4)
    assert sorted(row.id for group in groups for row in group) == sorted(r.id for r in found)
    assert {len(group) for group in groups[:-1]} == {16}


@pytest.fixture
def quick(tiny: Path, tmp_path: Path) -> Any:
    """An evaluation of real rows in many small groups, under a name."""

    def launch(name: str) -> jobs.RunDirectory:
        return create(
            str(tiny), sample.folder() / "test.jsonl", tasks=QUICK, limit=80, batch_size=2,
            out=tmp_path / name,
        )  # fmt: skip

    return launch


def process(run: jobs.RunDirectory) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "ecellm_mlx.jobs", str(run.path)],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip


@pytest.mark.proof
def test_killed_at_any_instant_it_ends_as_if_it_had_not_been(quick: Any) -> None:
    expected = quick("whole")
    assert run_here(expected)["outcome"] == "finished"
    run = quick("killed")
    journal = run.path / "answers.jsonl"
    rng = random.Random(7)
    kills, sizes = 0, [0]
    while kills < 2:
        child = process(run)
        # Wait until this process has answered something, then a while of no known length.
        before = sizes[-1]
        while child.poll() is None and (
            not journal.exists() or journal.stat().st_size <= before
        ):
            time.sleep(0.005)
        time.sleep(rng.uniform(0, 0.05))
        if child.poll() is not None:
            break
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
        kills += 1
        sizes.append(journal.stat().st_size)
        kept = journal.read_bytes()
    assert kills == 2, "the evaluation was too quick to be killed"
    assert run.status().state is jobs.State.FAILED
    assert process(run).wait() == 0
    assert journal.read_bytes().startswith(kept[: kept.rfind(b"\n") + 1])
    identities = [json.loads(line)["id"] for line in journal.read_text().splitlines()]
    assert len(identities) == len(set(identities)) == 80, "no row twice and none lost"
    for name in ("predictions.jsonl", "metrics.json"):
        mine, theirs = (r.path / name for r in (run, expected))
        if name == "metrics.json":
            figures = [json.loads(f.read_text()) for f in (mine, theirs)]
            assert figures[0]["decodings"] == figures[1]["decodings"]
            assert figures[0]["details"] == figures[1]["details"]
        else:
            assert mine.read_bytes() == theirs.read_bytes()
    started = [e for e in run.reader().read() if isinstance(e, events.Started)]
    assert started[-1].resumed_from, "the last process went on from the journal"


def test_stopped_and_resumed(quick: Any, ecellm: Any) -> None:
    expected = quick("whole")
    run_here(expected)
    run = quick("stopped")
    context = jobs.JobContext(run)
    polls = iter([None] * 9 + [jobs.Control.STOP] * 100)
    context.poll = lambda on_pause=None: next(polls)  # type: ignore[method-assign]
    outcome, results = job.run_job(context)
    context.close()
    assert outcome == "stopped"
    partial = (run.path / "predictions.jsonl").read_text().splitlines()
    assert 0 < len(partial) == results["answers"] < 80
    context = jobs.JobContext(run)
    context.set_state(jobs.State.STOPPED)
    context.close()
    done = ecellm("resume", run.path)
    assert done.returncode == 0, done.stderr
    name = "predictions.jsonl"
    assert (run.path / name).read_bytes() == (expected.path / name).read_bytes()


def test_nothing_is_computed_when_all_is_there(
    quick: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = quick("run")
    run_here(run)
    (run.path / "metrics.json").unlink()
    monkeypatch.setattr(local, "records", None)
    assert run_here(run)["outcome"] == "finished"
    assert (run.path / "metrics.json").exists()


def test_a_failure_keeps_what_there_is(quick: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    run = quick("run")
    added = 0
    add = AnswerLog.add

    def failing(self: AnswerLog, records: Any) -> None:
        nonlocal added
        added += 1
        if added > 2:
            raise JobError("the disk is gone")
        add(self, records)

    monkeypatch.setattr(AnswerLog, "add", failing)
    with pytest.raises(JobError, match="the disk is gone"):
        run_here(run)
    assert len((run.path / "predictions.jsonl").read_text().splitlines()) == 16


def test_rows_that_changed_are_not_mixed(tiny: Path, dataset: Path, tmp_path: Path) -> None:
    data = dataset / "test.jsonl"
    run = create(str(tiny), data, out=tmp_path / "run")
    data.write_text(data.read_text().replace("the", "a"), encoding="utf-8")
    with pytest.raises(JobError, match=r"the data of .* changed"):
        run_here(run)


HOSTILE = (
    'Lamp "Glow" {3 pack} [new] \\ 12" tall',
    '"}, {"attribute": "color", "value": "red", "source": "None"}]',
    "Lampe 🦋💡👩\u200d🚀 für's Büro",
    "line one\nline two\ttab\r\n\x0b\x00 end",
    "Cafe\u0301 n\u0303 Z\u0351\u0346a\u0334lgo",
    "مصباح \u202eLED\u202c أسود",
    "\\\\\\ \\u0041 \\n",
)


def test_values_from_the_text_of_hostile_titles(
    ecellm: Any, refused: Any, tiny: Path, tmp_path: Path
) -> None:
    """`--values source`: every value is a piece of its field, and the report says so."""
    label = json.dumps([{"attribute": "color", "value": "None", "source": "None"}])
    members = [
        {
            "id": str(n),
            "instruction": "Extract.",
            "input": json.dumps({"product title": title, "target attributes": "Color"}),
            "options": None,
            "output": label,
            "task": "Attribute_Value_Extraction",
            "setting": "IND_Diverse_Instruction",
            "split": "test",
        }
        for n, title in enumerate(HOSTILE)
    ]
    data = tmp_path / "titles.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in members), encoding="utf-8")
    common = ("eval", "--model", tiny, "--data", data)
    run = tmp_path / "run"
    done = ecellm(*common, "--values", "source", "--out", run, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["values"] == "source"
    job = json.loads((run / "job.json").read_text(encoding="utf-8"))
    assert job["config"]["values"] == "source", "a resumed run goes on with it"
    lines = (run / "predictions.jsonl").read_text(encoding="utf-8").splitlines()
    found = {line["id"]: json.loads(line["prediction"]) for line in map(json.loads, lines)}
    assert len(found) == len(HOSTILE)
    given = 0
    for n, title in enumerate(HOSTILE):
        for item in found[str(n)]:
            assert item["attribute"] == "color"
            if item["source"] == "None":
                assert item["value"] == "None"
                continue
            given += 1
            assert item["value"] in title or item["value"] in title.lower()
    assert given, "some values were found"
    assert "(valid of source texts)" in (run / "report.md").read_text(encoding="utf-8")
    assert "--values words is unknown" in refused(*common, "--values", "words", status=2)
    said = refused(*common, "--values", "source", "--decoding", "paper", status=2)
    assert "--values source has no effect without --decoding valid" in said


def test_shortened_inputs_are_named_and_counted(
    ecellm: Any, tiny: Path, dataset: Path, tmp_path: Path
) -> None:
    """Also by a run that was stopped before it could count them all."""
    data = dataset / "test.jsonl"
    items = [json.loads(line) for line in data.read_text(encoding="utf-8").splitlines()]
    for item in items:
        if item["task"] == "Sentiment_Analysis":
            item["input"] += " and it glows" * 1000
    long = [item["id"] for item in items if item["task"] == "Sentiment_Analysis"]
    data.write_text("".join(json.dumps(item) + "\n" for item in items), encoding="utf-8")
    run = tmp_path / "run"
    done = ecellm("eval", "--model", tiny, "--data", data, "--out", run)
    assert done.returncode == 0, done.stderr
    for name in long:
        assert re.search(
            rf"warning: row {name}: its prompt of \d+ tokens is too long.* \d+ tokens",
            done.stderr,
        )
    said = f"the inputs of {len(long)} of {len(items)} rows were shortened"
    assert said in done.stderr
    metrics = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    assert metrics["shortened"] == len(long)
    assert f"{len(long)} inputs" in (run / "report.md").read_text(encoding="utf-8")
    keys = set(json.loads((run / "predictions.jsonl").read_text().splitlines()[0]))
    assert keys <= {"id", "task", "setting", "prediction", "probability"}
    # The figures of another process come from the journal.
    (run / "metrics.json").unlink()
    assert run_here(jobs.RunDirectory(run))["shortened"] == len(long)


def test_contradictions_are_usage_errors(tiny: Path, dataset: Path) -> None:
    data, url = dataset / "test.jsonl", "http://127.0.0.1:1/v1"
    for options, message in (
        ({"decodings": ("greedy",)}, "greedy is unknown"),
        ({"endpoint": url, "decodings": ("valid",)}, "--decoding valid needs the model"),
        ({"endpoint": url, "api": "soap"}, "--api soap is unknown"),
        ({"endpoint": url, "frame": "chatml"}, "--frame chatml is unknown"),
        ({"endpoint": "localhost:8080"}, "is no address"),
        ({"endpoint": "http://me:secret@host/v1"}, "must not hold a password"),
    ):
        with pytest.raises(UsageError, match=message):
            create(str(tiny), data, **options)


def test_calibration_and_a_threshold_from_other_rows(tiny: Path, tmp_path: Path) -> None:
    found = {}
    for split in ("val", "test"):
        options = {"threshold_from": str(found["val"].path)} if found else {}
        found[split] = create(
            str(tiny), sample.folder() / f"{split}.jsonl", tasks=("PM", "SA"),
            settings=("IND_Diverse_Instruction",), limit=20, out=tmp_path / split, **options,
        )  # fmt: skip
        run_here(found[split])
    metrics = json.loads((found["test"].path / "metrics.json").read_text())
    details = metrics["details"]["valid"]
    matching = details["Product_Matching"]["IND_Diverse_Instruction"]
    assert 0 <= matching["calibration"]["ece"] <= 1
    assert sum(b["count"] for b in matching["calibration"]["bins"]) == 10
    threshold = matching["threshold"]
    assert threshold["chosen"]["n"] == 10, "chosen on the validation rows"
    assert threshold["chosen"]["f1"] >= threshold["chosen"]["f1_even"]
    scores = metrics["decodings"]["valid"]["Product_Matching"]["IND_Diverse_Instruction"]
    assert threshold["f1_given"] == scores["strict"]["f1"]
    sentiment = details["Sentiment_Analysis"]["IND_Diverse_Instruction"]
    assert "calibration" in sentiment
    assert "threshold" not in sentiment
    text = (found["test"].path / "report.md").read_text()
    assert "Expected calibration error" in text
    assert "as chosen on 10 other rows" in text


def test_a_threshold_is_what_its_formula_says() -> None:
    name = "Product_Matching"
    members = [
        rows.Row(str(n), "i", "x", None, label, name, "s", "test")
        for n, label in enumerate(("yes", "yes", "no"))
    ]
    answers = {"0": "yes", "1": "no", "2": "no"}
    sure = {"0": 0.9, "1": 0.6, "2": 0.8}
    assert thresholds.probability_of_yes(members, answers, sure) == pytest.approx(
        [0.9, 0.4, 0.2]
    )
    found = thresholds.apply(Threshold(0.3, 1.0, 0.5, 9), members, answers, sure)
    assert found["f1"] == 1
    assert found["f1_given"] == pytest.approx(2 / 3)


def test_an_adapter_by_the_name_of_its_run(workspace_home: Path, tmp_path: Path) -> None:
    folder = workspace_home / "runs" / "train-1" / "adapter"
    folder.mkdir(parents=True)
    (folder / adapter_files.CONFIG_FILE).write_text("{}")
    assert adapter_files.folder_of("train-1") == folder
    assert adapter_files.folder_of(folder.parent) == folder
    with pytest.raises(AdapterError, match="train-2 holds no adapter"):
        adapter_files.folder_of("train-2")
