"""An ``ecellm`` command as a child of the app: what it says, and how it ends.

For what is too short or too interactive to be a job: pulls, conversions, questions
to be answered in JSON. The child ends with the app. Reads pipes, so it belongs in a
worker thread; ``end`` may be called from any thread.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from typing import Any

from ecellm_mlx.jobs import give_way

CLI = (sys.executable, "-m", "ecellm_mlx.cli")
PROGRESS = {"ECELLM_PROGRESS": "lines"}  # see ecellm_mlx.cli.progress
KEPT_OUTPUT = 200_000  # bytes of stdout that are read back


def command_line(words: Sequence[str]) -> str:
    """The command as a user would type it, quoted for a shell."""
    return shlex.join(["ecellm", *words])


_live: list[CommandRun] = []


def end_all() -> None:
    """End every child: the app is closing, and must not wait for answers."""
    for run in list(_live):
        run.end()


def under_way() -> list[CommandRun]:
    """Commands of the user's that run now; questions of the app's own are left out."""
    return [run for run in list(_live) if not run.question]


class CommandRun:
    """One ``ecellm …``. ``lines`` starts it; afterwards code and output are known.

    Args:
        words: what follows ``ecellm``.
        question: whether the app asks for its own sake, and nothing is lost with it.
    """

    def __init__(self, words: Sequence[str], *, question: bool = False) -> None:
        self.words = tuple(words)
        self.question = question
        self.began = time.monotonic()
        self.code: int | None = None
        self.output = ""
        self.ended_by_user = False
        self._process: subprocess.Popen[str] | None = None

    @property
    def line(self) -> str:
        """The command as text."""
        return command_line(self.words)

    @property
    def running(self) -> bool:
        """Whether it has not ended yet."""
        return self.code is None

    def lines(self) -> Iterator[str]:
        """Start the child and give what it says on stderr, line by line, to its end."""
        self.began = time.monotonic()
        _live.append(self)
        try:
            yield from self._lines()
        finally:
            _live.remove(self)

    def _lines(self) -> Iterator[str]:
        # stdout may be large; a file cannot fill up and block the child as a pipe can.
        with contextlib.ExitStack() as stack:
            try:
                stdout = stack.enter_context(tempfile.TemporaryFile())
                self._process = subprocess.Popen(
                    [*CLI, *self.words],
                    stdin=subprocess.DEVNULL,
                    stdout=stdout,
                    stderr=subprocess.PIPE,
                    text=True,
                    encoding="utf-8",
                    errors="replace",
                    env={**os.environ, "COLUMNS": "100", "NO_COLOR": "1", **PROGRESS},
                )
            except OSError as error:
                yield f"the command cannot be started: {error}"
                self.code = 1
                return
            give_way(self._process.pid)
            if self.ended_by_user:
                self._process.terminate()
            assert self._process.stderr is not None
            with self._process.stderr as stderr:
                for text in stderr:
                    yield text.rstrip("\n")
            self._process.wait()
            stdout.seek(0)
            self.output = stdout.read(KEPT_OUTPUT).decode("utf-8", errors="replace")
        self.code = self._process.returncode

    def end(self) -> None:
        """Ask the child to end."""
        self.ended_by_user = True
        if self._process:
            with contextlib.suppress(ProcessLookupError):
                self._process.terminate()


def ask(words: Sequence[str]) -> tuple[Any, str]:
    """Run ``ecellm WORDS`` and read the JSON it prints.

    Returns:
        The value and an empty text, or None and the sentence why there is none.
    """
    run = CommandRun(words, question=True)
    said = [line for line in run.lines() if line.strip()]
    if run.code == 0:
        with contextlib.suppress(ValueError):
            return json.loads(run.output), ""
        return None, f"`{run.line}` printed no JSON."
    last = said[-1] if said else "it said nothing"
    return None, last.removeprefix("ecellm: ") + abort_note(run.code)


def abort_note(code: int | None) -> str:
    """What a negative exit status means, or nothing."""
    if code is not None and code < 0:
        return f" (the process was ended by signal {-code}; it may have run out of memory)"
    return ""
