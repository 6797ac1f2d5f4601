"""Run a job and kill it: ``python killer.py RUN_DIR < orders > outcomes``.

Imports everything once and forks a child for each order, so that dozens of kills fit
into a test. An order is a line: ``end`` lets the job end by itself, ``after S`` kills
it (SIGKILL) S seconds after its first step, ``start S`` S seconds after the fork, and
``save S`` S seconds after a checkpoint begins to be written. The outcome is ``killed``
or the child's exit status.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import transformers.models.auto.tokenization_auto  # noqa: F401

import ecellm_mlx.training.loop  # noqa: F401
from ecellm_mlx import jobs

TIMEOUT_S = 60.0


def run(folder: Path) -> int:
    """The job, in a child; its words go to ``job.log`` as if it was started for real."""
    log = os.open(folder / "job.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    return jobs.execute(jobs.RunDirectory(folder))


def seen(folder: Path, kind: str) -> Callable[[], bool]:
    """Whether the moment of an order has come; looks at files only."""
    if kind == "save":
        checkpoints = folder / "checkpoints"
        return lambda: any(checkpoints.glob(".*.partial"))
    events = folder / "events.jsonl"
    before = events.stat().st_size if events.exists() else 0

    def stepped() -> bool:
        if not events.exists():
            return False
        with events.open("rb") as stream:
            stream.seek(before)
            return b'"train_metrics"' in stream.read()

    return stepped if kind == "after" else lambda: True


def obey(folder: Path, order: str) -> str:
    """Fork the job, kill it at the ordered moment, say what became of it."""
    kind, _, seconds = order.partition(" ")
    moment = seen(folder, kind)
    pid = os.fork()
    if pid == 0:
        status = 70
        try:
            status = run(folder)
        finally:
            os._exit(status)
    deadline = time.monotonic() + TIMEOUT_S
    while time.monotonic() < deadline:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return str(os.waitstatus_to_exitcode(status))
        if kind != "end" and moment():
            time.sleep(float(seconds))
            break
        time.sleep(0.01 if kind == "end" else 0.0005)
    os.kill(pid, signal.SIGKILL)
    status = os.waitpid(pid, 0)[1]
    code = os.waitstatus_to_exitcode(status)
    return "killed" if code == -signal.SIGKILL else str(code)


if __name__ == "__main__":
    run_folder = Path(sys.argv[1])
    for line in sys.stdin:
        sys.stdout.write(obey(run_folder, line.strip()) + "\n")
        sys.stdout.flush()
