"""The ``ecellm`` command for tests: in this process, or as a process of its own.

``here`` calls the same entry point as the console script, with arguments, environment,
folder and streams of its own, and gives back what ``subprocess.run`` would. Most of what a
process would take is imports. Jobs that the command starts run to their end inside
``jobs.start``, through the code that a job's process runs. ``process`` is for what only a
process can promise: signals, terminals, what is imported, several commands at once.
"""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ecellm_mlx import cli, jobs
from ecellm_mlx.jobs import process as job_process

TIMEOUT_S = 600
# No process has it: what is done to a job's process after its start finds nobody.
NOBODY = 2**30
# What a Python process says of warnings when nobody asked for anything else.
SILENT = (DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning)


def process(*arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run the command as a process."""
    return subprocess.run(
        [sys.executable, "-m", "ecellm_mlx.cli", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
        **options,
    )


def here(
    *arguments: object,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    input: str = "",
) -> subprocess.CompletedProcess[str]:
    """Run the command in this process; nothing that it changes there outlasts it."""
    words = ["ecellm", *map(str, arguments)]
    streams = {"stdin": io.StringIO(input), "stdout": _pipe(), "stderr": _pipe()}
    with (
        pytest.MonkeyPatch.context() as changed,
        warnings.catch_warnings(),
        _environment(os.environ if env is None else env),
    ):
        warnings.resetwarnings()
        for kind in SILENT:
            warnings.simplefilter("ignore", kind)
        changed.setattr(sys, "argv", list(words))
        for name, stream in streams.items():
            changed.setattr(sys, name, stream)
        # ``python -m pytest`` would otherwise be the name of the program.
        changed.setattr(sys.modules["__main__"], "__package__", None, raising=False)
        changed.setattr(job_process, "subprocess", JOBS_HERE)
        if cwd is not None:
            changed.chdir(cwd)
        status = _status(words)
    stdout, stderr = (_text(streams[name]) for name in ("stdout", "stderr"))
    return subprocess.CompletedProcess(words, status, stdout, stderr)


def _status(words: list[str]) -> int:
    """What the interpreter makes of how ``main`` ends."""
    try:
        cli.main()
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            return end.code or 0
        sys.stderr.write(f"{end.code}\n")
        return 1
    except Exception:  # noqa: BLE001 - what --debug lets through ends a process this way
        sys.excepthook(*sys.exc_info())  # type: ignore[arg-type]
        return 1
    return 0


def _pipe() -> io.TextIOWrapper:
    return io.TextIOWrapper(io.BytesIO(), encoding="utf-8", newline="")


def _text(stream: Any) -> str:
    stream.flush()
    text: str = stream.buffer.getvalue().decode("utf-8")
    return text.replace("\r\n", "\n")


@contextlib.contextmanager
def _environment(wanted: Mapping[str, str]) -> Iterator[None]:
    before = dict(os.environ)
    _set_environment(wanted)
    try:
        yield
    finally:
        _set_environment(before)


def _set_environment(wanted: Mapping[str, str]) -> None:
    wanted = dict(wanted)
    for name in os.environ.keys() - wanted.keys():
        del os.environ[name]
    os.environ.update(wanted)


class _Done:
    """A job that has ended by the time its process would have begun."""

    pid = NOBODY

    def __init__(self, command: list[str], *, stdout: Any, cwd: Path, **_: Any) -> None:
        assert command[:-1] == [sys.executable, "-m", "ecellm_mlx.jobs"], command
        with (
            contextlib.chdir(cwd),
            io.TextIOWrapper(stdout, encoding="utf-8", write_through=True) as log,
            contextlib.redirect_stdout(log),
            contextlib.redirect_stderr(log),
        ):
            self.returncode = jobs.execute(jobs.RunDirectory(Path(command[-1])))

    def poll(self) -> int:
        """The exit status."""
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """The exit status, at once."""
        return self.returncode


# In the place of ``subprocess`` where jobs are started.
JOBS_HERE = SimpleNamespace(DEVNULL=subprocess.DEVNULL, STDOUT=subprocess.STDOUT, Popen=_Done)
