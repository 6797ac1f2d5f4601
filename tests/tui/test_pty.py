"""The real program in a pseudo-terminal: from the first run to a finished catalog.

Keys go in as a terminal sends them, and what is read is what a terminal would show.
"""

from __future__ import annotations

import contextlib
import csv
import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ecellm_mlx import jobs
from ecellm_mlx.jobs import RunDirectory, State

F2, F8, ENTER, END, TAB = "\x1bOQ", "\x1b[19~", "\r", "\x1b[F", "\t"
CTRL_Q, CTRL_R = "\x11", "\x12"
ESCAPES = re.compile(r"\x1b(\[[0-9;?<>=]*[ -/]*[@-~]|\][^\x07]*\x07|[()][A-Z0-9]|[=>78])")


class Terminal:
    """``ecellm`` in a terminal of 80×24. ``seen`` is all text it ever drew."""

    def __init__(self, cwd: Path) -> None:
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        self._process = subprocess.Popen(
            [sys.executable, "-m", "ecellm_mlx.cli"],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            cwd=cwd,
            start_new_session=True,
            env={**os.environ, "TERM": "xterm-256color", "COLORTERM": "truecolor"},
        )
        os.close(slave)
        self.seen = ""

    def press(self, *keys: str) -> None:
        """Type, as fast as a fast typist."""
        for key in keys:
            os.write(self._master, key.encode())
            self._read(0.15)

    def until(self, happened: Callable[[], object], what: str, seconds: float = 120) -> None:
        """Read until ``happened()``."""
        end = time.monotonic() + seconds
        while not happened():
            assert self._process.poll() is None, f"it ended before {what}: {self.seen[-600:]}"
            assert time.monotonic() < end, f"waited in vain for {what}: {self.seen[-1500:]}"
            self._read(0.2)

    def shows(self, text: str) -> None:
        """Wait until ``text`` was drawn since the last call."""
        self.until(lambda: text in self.seen, f"{text!r} on the screen")
        self.seen = ""

    def wait(self) -> int:
        """Its exit status, once it has ended."""
        end = time.monotonic() + 30
        while self._process.poll() is None:
            assert time.monotonic() < end, "it does not end"
            self._read(0.1)
        os.close(self._master)
        return self._process.returncode

    def kill(self) -> None:
        """End it, whatever it does."""
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()

    def _read(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            if not select.select([self._master], [], [], left)[0]:
                return
            # On Linux the master raises once the program has gone.
            with contextlib.suppress(OSError):
                data = os.read(self._master, 65536)
                self.seen += ESCAPES.sub("", data.decode(errors="replace"))
                continue
            return


def newest(kind: str) -> RunDirectory | None:
    """The newest run of a kind."""
    return next((run for run in jobs.recent() if run.job().kind == kind), None)


@pytest.mark.proof
def test_from_first_run_to_a_finished_catalog(workspace_home: Path, tmp_path: Path) -> None:
    table = tmp_path / "products.csv"
    rows = [["title", "text"], ["kettle", "Lovely."], ["pan", "Broke at once."]]
    with table.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows(rows)
    terminal = Terminal(tmp_path)
    try:
        terminal.shows("First steps, 0 of 5 done")
        # Enter on the first step leads to the model, p installs it.
        terminal.press(ENTER)
        terminal.shows("ecellm models import smollm2-135m")
        terminal.press("p")
        config = workspace_home / "models" / "smollm2-135m" / "config.json"
        terminal.until(config.is_file, "the model")
        terminal.shows("done")

        # Home has noticed.
        terminal.press(F2)
        terminal.shows("1 of 5 done")

        # A catalog over two products.
        terminal.press(F8)
        terminal.shows("Extract")
        _fill_in_catalog(terminal, table)
        out = tmp_path / "products.sa.csv"
        terminal.press(CTRL_R)
        terminal.until(lambda: newest("catalog"), "the catalog run")
        run = newest("catalog")
        assert run is not None
        # A job that still runs would be asked about when we leave.
        terminal.until(lambda: not run.status().state.live, "the end of the run")
        assert run.status().state is State.FINISHED
        with out.open(newline="", encoding="utf-8") as stream:
            answers = [row["ecellm_sentiment_analysis"] for row in csv.DictReader(stream)]
        assert len(answers) == 2
        assert all(re.fullmatch(r"[A-E]: .*", answer) for answer in answers)
        terminal.press(CTRL_Q)
        assert terminal.wait() == 0
    finally:
        terminal.kill()


def _fill_in_catalog(terminal: Terminal, table: Path) -> None:
    """Choose the table by its path and the task by its first letters, with keys alone."""
    # The list of tables opens; its last entry asks for a path.
    terminal.press(ENTER, END, ENTER)
    terminal.press(*str(table))
    terminal.press(TAB, ENTER, "S", "A", ENTER)
    terminal.until(lambda: "review=text" in terminal.seen, "the guessed mapping")
