"""What a person decides reaches the table, the training rows, and the next run."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from ecellm_mlx import jobs
from ecellm_mlx.catalog import review
from ecellm_mlx.data import rows
from ecellm_mlx.errors import DataError, EcellmError, JobError
from ecellm_mlx.jobs import RunDirectory

from .conftest import create

REVIEWS = ["Lovely.", "Broke at once.", 'It is "fine",\nmore or less.', "Lovely."]
OPTIONS = ["very positive", "positive", "neutral", "negative", "very negative"]


@pytest.fixture
def run(tmp_path: Path, tiny: Path) -> RunDirectory:
    """A finished run over four reviews, two of them alike."""
    table = tmp_path / "reviews.csv"
    with table.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([["text"], *([text] for text in REVIEWS)])
    made = create(
        table,
        model=str(tiny),
        out=tmp_path / "out.csv",
        task="SA",
        mapping=["review=text"],
        review_below=1.0,
    )
    assert jobs.execute(made) == 0
    return made


def answers(path: Path) -> list[str]:
    with path.open(newline="", encoding="utf-8") as stream:
        return [row["ecellm_sentiment_analysis"] for row in csv.DictReader(stream)]


def test_decisions_are_taken_over(run: RunDirectory, tmp_path: Path, ecellm: Any) -> None:
    file = review.read(review.of_run(run))
    assert len(file.items) == 4
    assert [item.confidence for item in file.items] == sorted(i.confidence for i in file.items)
    by_text = {item.fields["review"]: item for item in file.items}
    lovely, broke = by_text["Lovely."], by_text["Broke at once."]
    right = next(f"{chr(65 + n)}: {o}" for n, o in enumerate(OPTIONS) if o not in broke.answer)
    review.save(file, {lovely.key: lovely.answer, broke.key: right})
    again = {item.key: item for item in review.read(file.path).items}
    assert again[lovely.key].accepted
    assert not again[broke.key].accepted

    target = tmp_path / "d" / "train.jsonl"
    done = ecellm("catalog", "correct", str(run.path), "--rows", str(target))
    assert done.returncode == 0, done.stderr
    assert "2 rows decided, 1 of them corrected" in done.stderr
    found = rows.load(target)
    assert {row.input: row.output for row in found} == {
        "Lovely.": lovely.answer,
        "Broke at once.": right,
    }
    assert answers(tmp_path / "out.csv")[1] == right
    # The person's record stays, and so does the decision when the catalog runs again.
    assert review.read(file.path).items
    config = run.job().config
    later = create(
        Path(config["table"]),
        model=config["model"],
        out=tmp_path / "out.csv",
        task="SA",
        mapping=["review=text"],
        resume=True,
    )
    assert jobs.execute(later) == 0
    assert answers(tmp_path / "out.csv")[1] == right


def test_a_decision_that_is_no_answer_is_refused(run: RunDirectory, tmp_path: Path) -> None:
    file = review.read(review.of_run(run))
    before = (tmp_path / "out.csv").read_bytes()
    with pytest.raises(DataError, match="holds no decisions"):
        review.apply(run)
    review.save(file, {file.items[0].key: "splendid"})
    with pytest.raises(DataError, match=f"line {file.items[0].line} cannot be used"):
        review.apply(run, tmp_path / "train.jsonl")
    assert (tmp_path / "out.csv").read_bytes() == before
    assert not (tmp_path / "train.jsonl").exists()


@pytest.mark.parametrize("content", ["", "a,b\n1,2\n", None])
def test_a_file_that_is_no_review_is_refused(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "x.review.csv"
    if content is not None:
        path.write_text(content)
    with pytest.raises(EcellmError, match=r"no review file|does not exist"):
        review.read(path)


def test_other_runs_have_no_review(tmp_path: Path) -> None:
    run = jobs.create("eval", {}, out=tmp_path / "run")
    with pytest.raises(JobError, match="no catalog run"):
        review.of_run(run)
    assert json.loads((run.path / "job.json").read_text())["kind"] == "eval"
