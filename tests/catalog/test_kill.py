"""A run that is killed at any instant, resumed and killed again loses and changes nothing."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from ecellm_mlx import jobs, sample
from ecellm_mlx.distributed.shards import journal_path
from ecellm_mlx.tables import open_table

from .conftest import KIND, create
from .test_job import head

FAKE = Path(__file__).parent / "killed.py"
KILLS = 10
PACE = "0.02"


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """Real products, some of them twice, and two rows that cannot be read."""
    source = open_table(sample.catalog())
    rows = [row.cells for row in source.good_rows()]
    path = head(sample.catalog(), tmp_path / "shop.csv", 60, *rows[10:30])
    with path.open("ab") as stream:
        stream.write(b'too,few\n1,"never closed\n')
    return path


def execute(
    run: jobs.RunDirectory, *command: str, kill_after: float | None = None, **settings: str
) -> int:
    """Run a job in a child process, which is killed after some seconds."""
    child = subprocess.Popen(
        [sys.executable, *command, str(run.path)],
        env={**os.environ, **settings},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        return child.wait(timeout=kill_after)
    except subprocess.TimeoutExpired:
        os.killpg(child.pid, signal.SIGKILL)
        return child.wait()


def outputs(out: Path) -> dict[str, bytes]:
    """The files of a job but the journal, and no temporary ones."""
    found = [p for p in out.parent.iterdir() if p.stem.startswith(out.stem)]
    return {
        path.name.removeprefix(out.stem): path.read_bytes()
        for path in found
        if "journal" not in path.name
    }


@pytest.mark.proof
def test_many_kills_change_nothing(tiny: Path, table: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {
        **KIND, "model": str(tiny), "batch_size": 3, "review_below": 0.5,
    }  # fmt: skip
    whole = tmp_path / "whole" / "out.csv"
    run = create(table, out=whole, **options)
    assert execute(run, str(FAKE)) == 0
    assert set(outputs(whole)) == {".csv", ".rejects.csv", ".review.csv"}

    draw = random.Random(7)
    out = tmp_path / "parts" / "out.csv"
    killed, answers = 0, []
    for _ in range(KILLS):
        run = create(table, out=out, resume=True, **options)
        after = str(draw.uniform(0.0, 0.4))
        code = execute(run, str(FAKE), DIE_AFTER=after, BATCH_SECONDS=PACE)
        killed += code == -signal.SIGKILL
        answers.append(count_answers(out))
        if code == 0:
            assert outputs(out) == outputs(whole)
            out.unlink()
    run = create(table, out=out, resume=True, **options)
    assert execute(run, str(FAKE)) == 0
    assert outputs(out) == outputs(whole)
    assert killed >= KILLS // 2
    # Work that was done stays done: the answers only ever grow.
    assert answers == sorted(answers)
    assert len({n for n in answers if 0 < n < answers[-1]}) >= 2


@pytest.mark.proof
@pytest.mark.parametrize("row", [1, 40, 79])
def test_a_kill_while_writing_leaves_no_half_table(
    tiny: Path, table: Path, tmp_path: Path, row: int
) -> None:
    options: dict[str, Any] = {**KIND, "model": str(tiny), "review_below": 1.0}
    out = tmp_path / "parts" / "out.csv"
    run = create(table, out=out, **options)
    assert execute(run, str(FAKE), DIE_AT_ROW=str(row)) == -signal.SIGKILL
    assert set(outputs(out)) == set()
    run = create(table, out=out, resume=True, **options)
    assert execute(run, str(FAKE)) == 0
    assert set(outputs(out)) == {".csv", ".rejects.csv", ".review.csv"}
    assert not [path for path in out.parent.iterdir() if path.name.startswith(".")]


def count_answers(out: Path) -> int:
    journal = journal_path(out)
    if not journal.exists():
        return 0
    with sqlite3.connect(journal) as database:
        names = database.execute("SELECT name FROM sqlite_master").fetchall()
        if ("answers",) not in names:
            return 0
        found = database.execute("SELECT COUNT(*) FROM answers").fetchone()
    database.close()
    return int(found[0])


@pytest.mark.proof
def test_kills_of_the_real_job(tiny: Path, table: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {**KIND, "model": str(tiny), "batch_size": 2}
    real = ("-m", "ecellm_mlx.jobs")
    whole = tmp_path / "whole" / "out.csv"
    run = create(table, out=whole, **options)
    started = time.monotonic()
    assert execute(run, *real) == 0
    seconds = time.monotonic() - started
    out = tmp_path / "parts" / "out.csv"
    answers = []
    for share in (0.6, 0.7, 0.8, 0.9):
        run = create(table, out=out, resume=True, **options)
        execute(run, *real, kill_after=seconds * share)
        answers.append(count_answers(out))
    assert any(n > 0 for n in answers), answers
    run = create(table, out=out, resume=True, **options)
    assert execute(run, *real) == 0
    assert outputs(out) == outputs(whole)
