"""Matching: candidates, decisions, and a whole job over two real catalogs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ecellm_mlx import jobs
from ecellm_mlx.errors import JobError, UsageError
from ecellm_mlx.jobs import events
from ecellm_mlx.matching import blending, job
from ecellm_mlx.matching.candidates import Candidate, candidates, tokens
from ecellm_mlx.matching.pairs import accepted
from ecellm_mlx.tables import open_table
from tests.catalog.test_job import stop_after

from .conftest import create


def match_here(run: jobs.RunDirectory) -> tuple[str, dict[str, Any]]:
    context = jobs.JobContext(run)
    try:
        return job.run_job(context)
    finally:
        context.close()


def test_words_of_two_spellings_meet() -> None:
    assert set(tokens("Photo Shop MX-20")) & set(tokens("photoshop mx20")) == {
        "photoshop", "mx20", "mx", "20",
    }  # fmt: skip


def test_candidates_of_real_catalogs(amazon: Path, google: Path, matches: Path) -> None:
    left = [row.cells for row in open_table(amazon).good_rows()]
    right = [row.cells for row in open_table(google).good_rows()]
    found = candidates([row[1] for row in left], [row[1] for row in right], top=5)
    known = {tuple(row.cells) for row in open_table(matches).good_rows()}
    proposed = {(left[c.left][0], right[c.right][0]) for c in found}
    first = {(left[c.left][0], right[c.right][0]) for c in found if c.rank == 1}
    assert len(proposed & known) >= 0.95 * len(known)
    assert len(first & known) >= 0.7 * len(known)
    assert all(0 < c.similarity <= 1 for c in found)
    assert max(sum(c.left == i for c in found) for i in range(len(left))) <= 5
    assert candidates(["a"], ["b"], top=5) == candidates([""], ["a"], top=5) == []
    assert candidates(["a"], [""], top=5) == []


def test_ties_go_to_what_comes_first() -> None:
    found = candidates(["red lamp"], ["x", "red lamp", "red lamp", "red lamp"], top=2)
    assert [c.right for c in found] == [1, 2]


def pair(left: int, right: int, similarity: float = 0.5) -> Candidate:
    return Candidate(left, right, similarity, 1)


def test_one_to_one_finds_the_best_whole() -> None:
    found = [pair(0, 0), pair(0, 1), pair(1, 0), pair(2, 5), pair(3, 6), pair(3, 7, 0.9)]
    probabilities = [0.9, 0.8, 0.8, 0.4, 0.7, 0.7]
    options: dict[str, Any] = {"threshold": 0.5}
    assert accepted(found, probabilities, one_to_one=False, **options) == [0, 1, 2, 4, 5]
    # Greedy would take 0-0 and leave 1 without a partner.
    assert accepted(found, probabilities, one_to_one=True, **options) == [1, 2, 5]
    assert accepted(found, [None] * 6, one_to_one=True, **options) == []


def test_one_to_one_is_scipys_assignment() -> None:
    import numpy as np
    from scipy.optimize import linear_sum_assignment

    rng = np.random.default_rng(3)
    matrix = rng.uniform(0.5, 1.0, (7, 9))
    found = [pair(i, j, 0.0) for i in range(7) for j in range(9)]
    chosen = accepted(found, matrix.ravel().tolist(), threshold=0.5, one_to_one=True)
    rows, columns = linear_sum_assignment(np.log(matrix / (1 - matrix)), maximize=True)
    assert {(found[i].left, found[i].right) for i in chosen} == set(
        zip(rows.tolist(), columns.tolist(), strict=True)
    )


def test_a_stopped_match_resumes_to_the_same_bytes(
    tiny: Path, tmp_path: Path, amazon: Path, google: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options: dict[str, Any] = {
        "model": str(tiny), "top": 1, "threshold": 0.0, "review_band": (0.0, 1.0),
        "one_to_one": True, "batch_size": 8,
    }  # fmt: skip
    whole = tmp_path / "whole.csv"
    outcome, results = match_here(create(amazon, google, out=whole, **options))
    assert outcome == "finished"
    assert results["pairs"] == results["review"] >= results["rows"] > 30
    table = open_table(whole)
    assert table.names == [
        *(f"left_{name}" for name in open_table(amazon).names),
        *(f"right_{name}" for name in open_table(google).names),
        "ecellm_match_probability", "ecellm_similarity", "ecellm_rank",
    ]  # fmt: skip
    rows = [row.cells for row in table.good_rows()]
    assert len({row[0] for row in rows}) == len({row[5] for row in rows}) == len(rows)
    assert all(0 <= float(row[10]) <= 1 for row in rows)

    parts = tmp_path / "parts.csv"
    with monkeypatch.context() as patch:
        stop_after(patch, 2)
        outcome, _ = match_here(create(amazon, google, out=parts, **options))
    assert outcome == "stopped"
    with pytest.raises(JobError, match="--resume"):
        create(amazon, google, out=parts, **options)
    run = create(amazon, google, out=parts, resume=True, **options)
    outcome, again = match_here(run)
    assert 0 < again["computed"] < results["computed"]
    assert parts.read_bytes() == whole.read_bytes()


def test_what_cannot_be_matched_is_a_sentence(
    tiny: Path, tmp_path: Path, amazon: Path, google: Path
) -> None:
    common: dict[str, Any] = {"model": str(tiny), "out": tmp_path / "out.csv"}
    with pytest.raises(UsageError, match=r"'colour' is no part.*no column 'nmae'"):
        create(amazon, google, right_map=("colour=name", "title=nmae"), **common)
    with pytest.raises(UsageError, match="--review-band is no probability"):
        create(amazon, google, review_band=(0.2, 7), **common)
    other = tmp_path / "other.csv"
    other.write_text("title\nqqq\n")
    run = create(other, google, **common)
    with pytest.raises(JobError, match="no word in common"):
        match_here(run)


def test_a_job_tells_what_the_model_is_worth(
    tiny: Path, tmp_path: Path, amazon: Path, google: Path, matches: Path
) -> None:
    options: dict[str, Any] = {"top": 3, "truth": matches, "one_to_one": True}
    words = tmp_path / "words.csv"
    run = create(amazon, google, out=words, **options)
    outcome, results = match_here(run)
    assert outcome == "finished"
    assert results["truth"]["used"] == blending.WORDS
    assert results["threshold"] == results["truth"]["quality"][blending.WORDS]["threshold"]
    assert results["truth"]["quality"][blending.WORDS]["f1"] > 0.8

    both = tmp_path / "both.csv"
    run = create(amazon, google, out=both, model=str(tiny), **options)
    outcome, results = match_here(run)
    assert set(results["truth"]["quality"]) == set(blending.SCORERS)
    assert open_table(both).names[-4:] == [
        "ecellm_match_probability", "ecellm_model_probability", "ecellm_similarity",
        "ecellm_rank",
    ]  # fmt: skip
    if results["truth"]["used"] == blending.WORDS:
        said = [e.message for e in run.reader().read() if isinstance(e, events.Warned)]
        assert any("adds nothing" in text for text in said)
        got = [row.cells[:10] for row in open_table(both).good_rows()]
        assert got == [row.cells[:10] for row in open_table(words).good_rows()]
    # The known matches change decisions, never what is asked: nothing is computed again.
    run = create(amazon, google, out=both, model=str(tiny), top=3, threshold=0.5, resume=True)
    outcome, results = match_here(run)
    assert results["computed"] == 0
    assert "truth" not in results

    with pytest.raises(UsageError, match="no --model was given"):
        create(amazon, google, out=tmp_path / "none.csv")


def test_matching_by_words_through_the_command(
    ecellm: Any, refused: Any, tmp_path: Path, amazon: Path, google: Path, matches: Path
) -> None:
    out = tmp_path / "matches.csv"
    done = ecellm("catalog", "match", amazon, google, "--truth", matches, "--out", out)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{out}\n"
    assert "words and prices: F1 0." in done.stderr
    assert "; decides" in done.stderr
    text = refused("catalog", "match", amazon, google, "--out", out, status=2)
    assert "no --model was given" in text
    folder = tmp_path / "pairs"
    done = ecellm("catalog", "pairs", amazon, google, "--truth", matches, "--out", folder)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{folder}\n"
    assert jobs.recent()
