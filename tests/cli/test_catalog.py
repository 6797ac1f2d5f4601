"""The catalog verbs as a user meets them, the guess that must be confirmed included."""

from __future__ import annotations

import json
import os
import pty
import select
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from ecellm_mlx import sample
from ecellm_mlx.tables import open_table
from tests.catalog.test_job import head


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    return head(sample.catalog(), tmp_path / "shop.csv", 3)


def test_a_guess_is_printed_as_options_in_a_pipe(
    ecellm: Any, tiny: Path, shop: Path, tmp_path: Path
) -> None:
    common = ["catalog", "run", shop, "--labels", "Books,Lamps", "--name", "kind"]
    common += ["--model", tiny, "--out", tmp_path / "out.csv"]
    done = ecellm(*common)
    assert done.returncode == 2
    assert '--map "title=title" --map "brand=brand"' in done.stderr
    assert "--yes" in done.stderr
    saved = tmp_path / "q.toml"
    done = ecellm(*common, "--yes", "--save-mapping", saved, "--json")
    assert done.returncode == 0, done.stderr
    results = json.loads(done.stdout)
    assert (results["outcome"], results["rows"], results["computed"]) == ("finished", 3, 3)
    assert "UTF-8" in done.stderr
    # The saved question asks the same, so nothing is left to compute.
    again = ["catalog", "run", shop, "--mapping", saved, "--model", tiny, "--resume"]
    done = ecellm(*again, "--out", tmp_path / "out.csv", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["computed"] == 0


def answer_on_terminal(command: list[str], reply: bytes) -> tuple[int, str]:
    """Run a command on a terminal of its own and answer its question."""
    parent, child = pty.openpty()
    process = subprocess.Popen(
        command, stdin=child, stdout=subprocess.DEVNULL, stderr=child, close_fds=True
    )
    os.close(child)
    seen, asked = b"", False
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        ready, _, _ = select.select([parent], [], [], 0.2)
        if ready:
            try:
                block = os.read(parent, 4096)
            except OSError:
                break
            seen += block
        elif process.poll() is not None:
            break
        if not asked and b"Use this mapping?" in seen:
            asked = True
            os.write(parent, reply)
    os.close(parent)
    return process.wait(timeout=60), seen.decode(errors="replace")


def test_a_guess_is_confirmed_on_a_terminal(tiny: Path, shop: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.csv"
    command = [
        sys.executable, "-m", "ecellm_mlx.cli", "catalog", "run", str(shop), "--labels",
        "Books,Lamps", "--model", str(tiny), "--out", str(out),
    ]  # fmt: skip
    code, text = answer_on_terminal(command, b"n\n")
    assert code == 2
    assert "declined" in text
    assert not out.exists()
    code, text = answer_on_terminal(command, b"y\n")
    assert code == 0, text
    assert len(list(open_table(out).good_rows())) == 3


def test_what_no_column_fits_is_said(ecellm: Any, tiny: Path, shop: Path) -> None:
    done = ecellm("catalog", "run", shop, "--task", "AVE", "--model", tiny, "--out", "x.csv")
    assert done.returncode == 2
    assert "--attributes" in done.stderr


def test_show_and_preview_speak_json(ecellm: Any, tiny: Path, google: Path) -> None:
    done = ecellm("catalog", "show", google, "--task", "AVE", "--json")
    value = json.loads(done.stdout)
    assert value["table"]["encoding"].startswith("Windows-1252")
    assert value["choices"][0]["column"] == "name"
    assert value["missing"] == ["target attributes"]
    done = ecellm(
        "catalog", "preview", google, "--task", "SA", "--map", "review=name",
        "--model", tiny, "--limit", "2", "--json",
    )  # fmt: skip
    rows = json.loads(done.stdout)["rows"]
    assert len(rows) == 2
    assert all(row["answer"] in row["options"] for row in rows)


def test_match_on_the_command_line(
    ecellm: Any, tiny: Path, amazon: Path, google: Path, tmp_path: Path
) -> None:
    done = ecellm(
        "catalog", "match", amazon, google, "--model", tiny, "--top", "1",
        "--threshold", "0", "--one-to-one", "--out", tmp_path / "m.csv", "--json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["rows"] > 30
    done = ecellm(
        "catalog", "match", amazon, google, "--model", tiny, "--review-band", "wide",
        "--out", tmp_path / "n.csv",
    )  # fmt: skip
    assert done.returncode == 2
    assert "--review-band wide" in done.stderr
