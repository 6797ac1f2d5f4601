"""A job on two hosts gives the bytes that it gives on one, here over loopback."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ecellm_mlx import sample
from ecellm_mlx.cli import launch as verb
from ecellm_mlx.device import runtime
from ecellm_mlx.distributed.shards import Shard
from ecellm_mlx.errors import JobError, StorageError
from ecellm_mlx.tables import open_table
from tests.catalog.conftest import KIND, create, run_here
from tests.catalog.test_job import head

FAILING = Path(__file__).parent / "failing"


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """More rows than one chunk has, and repeated ones that fall into different chunks."""
    rows = [row.cells for row in open_table(sample.catalog()).good_rows()]
    many = [[f"{n}", f"{cells[1]} {n % 130}", *cells[2:]] for n in range(5) for cells in rows]
    assert len(many) > 256
    return head(sample.catalog(), tmp_path / "shop.csv", 5, *many)


def free_port() -> int:
    """A port with a free one behind it, most probably: each rank takes one."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def command(table: Path, out: Path, model: Path, *more: str) -> list[str]:
    return [
        "catalog", "run", str(table), "--labels", "Books,Lamps,Shoes", "--map", "title=title",
        "--name", "kind", "--model", str(model), "--out", str(out), "--batch-size", "16",
        "--json", *more,
    ]  # fmt: skip


def launch(*arguments: str, **env: str) -> Any:
    """Run a command on two ranks, with one thread each."""
    variables = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", **env}
    options = [
        part for name, value in variables.items() for part in ("--env", f"{name}={value}")
    ]
    ports = ["--port", str(free_port())]
    return subprocess.run(
        [sys.executable, "-m", "ecellm_mlx.cli", "launch", "-n", "2", *ports, *options,
         *arguments],
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip


@pytest.mark.proof
def test_two_ranks_write_what_one_writes_whatever_happens_to_one(
    tiny: Path, table: Path, tmp_path: Path
) -> None:
    path = os.pathsep.join([str(FAILING), *sys.path])
    out = tmp_path / "two.csv"
    killed = launch(*command(table, out, tiny), PYTHONPATH=path)
    assert killed.returncode == 1, killed.stderr
    assert "rank 0 of 2 lost the others" in killed.stderr
    assert "--resume" in killed.stderr
    assert not out.exists()
    assert (tmp_path / "two.csv.rank1.journal.sqlite").exists()

    resumed = launch(*command(table, out, tiny, "--resume"))
    assert resumed.returncode == 0, resumed.stderr
    # Only the first rank reports.
    part = json.loads(resumed.stdout)
    options: dict[str, Any] = {**KIND, "model": str(tiny)}
    outcome, whole = run_here(create(table, out=tmp_path / "one.csv", **options))
    assert outcome == "finished"
    assert part["computed"] < 256 < whole["computed"]
    assert part["rows"] == whole["rows"]
    assert out.read_bytes() == (tmp_path / "one.csv").read_bytes()
    # The first rank's journal is complete: one host can go on alone, computing nothing.
    _, again = run_here(create(table, out=out, resume=True, **options))
    assert again["computed"] == 0


class Group:
    """What rank 0 of two hears when rank 1 said ``other``."""

    def __init__(self, other: str) -> None:
        self.other, self.said = other, [""]

    def texts(self, text: str) -> list[str]:
        self.said.append(text)
        return [text, self.other]


def test_a_failed_rank_tells_the_others(capsys: pytest.CaptureFixture[str]) -> None:
    group: Any = Group("done")
    shard = Shard(0, 2, group)
    with pytest.raises(StorageError), shard.reporting():
        raise StorageError("the disk is full", cure="free some space")
    failure = group.said[-1]
    assert failure == "failed: the disk is full; free some space"
    assert "rank 0 of 2 failed: the disk is full" in capsys.readouterr().err
    assert shard.all_done(True)
    assert not shard.all_done(False)

    group = Group(failure)
    with pytest.raises(JobError, match=r"rank 1 of 2 failed, so .*the disk is full.*--resume"):
        Shard(0, 2, group).all_done(True)


def test_what_cannot_be_launched_is_a_sentence(refused: Any) -> None:
    assert "`doctor` cannot run on several" in refused("launch", "-n", "2", "doctor", status=2)
    assert "one of -n, --hosts" in refused("launch", "train", status=2)


def test_ranks_of_one_machine_share_its_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each on all cores takes many times as long."""
    started: list[list[str]] = []
    monkeypatch.setattr(verb, "_run", lambda command, _token: not started.append(command))
    monkeypatch.setattr(runtime, "host_threads", lambda: 6)
    verb.launch(["train"], ranks=3, env=["OMP_NUM_THREADS=5"])
    (command,) = started
    given = [command[n + 1] for n, word in enumerate(command) if word == "--env"]
    assert "MKL_NUM_THREADS=2" in given
    # What is asked for comes last, and counts.
    assert given.index("OMP_NUM_THREADS=2") < given.index("OMP_NUM_THREADS=5")
    started.clear()
    verb.launch(["train"], hosts="a,b")
    assert not any("NUM_THREADS" in word for word in started[0])
