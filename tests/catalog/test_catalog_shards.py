"""A job on two hosts gives the bytes that it gives on one, here over loopback."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ecellm_mlx import sample
from ecellm_mlx.catalog.tables import open_table

from .test_catalog_job import head


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


def run(ranks: int, table: Path, out: Path, model: Path, *more: str) -> Any:
    launcher = []
    if ranks > 1:
        script = "from mlx._distributed_utils.launch import main; main()"
        port = ["--starting-port", str(free_port())]
        launcher = ["-c", script, "-n", str(ranks), *port, "--", sys.executable]
    command = [
        sys.executable, *launcher, "-m", "ecellm_mlx.cli", "catalog", "run", str(table),
        "--labels", "Books,Lamps,Shoes", "--map", "title=title", "--name", "kind",
        "--model", str(model), "--out", str(out), "--batch-size", "16", "--json", *more,
    ]  # fmt: skip
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


def test_two_ranks_write_what_one_writes(tiny: Path, table: Path, tmp_path: Path) -> None:
    one = run(1, table, tmp_path / "one.csv", tiny)
    assert one.returncode == 0, one.stderr
    two = run(2, table, tmp_path / "two.csv", tiny)
    assert (tmp_path / "two.csv").exists(), two.stderr
    assert (tmp_path / "two.csv").read_bytes() == (tmp_path / "one.csv").read_bytes()
    whole = json.loads(one.stdout)
    part = json.loads(two.stdout)
    # Each rank did a part, and only the first reports.
    assert 0 < part["computed"] < whole["computed"]
    assert part["rows"] == whole["rows"]
    assert (tmp_path / "two.csv.rank1.journal.sqlite").exists()
    # The first rank's journal is complete: one host can go on alone, computing nothing.
    again = run(1, table, tmp_path / "two.csv", tiny, "--resume")
    assert json.loads(again.stdout)["computed"] == 0
