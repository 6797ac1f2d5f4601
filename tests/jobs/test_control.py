"""Orders reach a job by file, by command and by signal, and a full disk only pauses it."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ecellm_mlx import jobs
from ecellm_mlx.errors import DiskFullError, JobError
from ecellm_mlx.jobs import Control, State, events, lock
from ecellm_mlx.training.setup import create_run

LONG = [
    "epochs=5000",
    "batch_size=4",
    "micro_batch_size=2",
    "eval_every=9999",
    "save_every=9999",
]


def until(condition: Callable[[], bool], seconds: float = 180) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


@pytest.fixture
def job(
    tiny: Path, dataset: Path, tmp_path: Path
) -> Iterator[tuple[jobs.RunDirectory, subprocess.Popen[bytes]]]:
    """A real training job that would go on for very long."""
    run = create_run(str(tiny), str(dataset), None, LONG, tmp_path / "run")
    process = jobs.start(run)
    until(lambda: run.status().step >= 2 or process.poll() is not None)
    yield run, process
    if process.poll() is None:
        process.kill()
    process.wait(120)


def checkpoints(run: jobs.RunDirectory) -> list[str]:
    return sorted(path.name for path in (run.path / "checkpoints").glob("0*"))


def test_every_order_by_command_and_signal(
    ecellm: Any, job: tuple[jobs.RunDirectory, subprocess.Popen[bytes]]
) -> None:
    run, process = job
    assert ecellm("checkpoint", run.path).returncode == 0
    until(lambda: len(checkpoints(run)) == 1)
    assert ecellm("pause", run.path).returncode == 0
    until(lambda: run.status().state is State.PAUSED)
    step = run.status().step
    assert f"{step:08d}" in checkpoints(run), "a pause saves first"
    with pytest.raises(JobError, match=f"process {process.pid}"):
        jobs.start(run)
    assert "stopped" not in ecellm("resume", run.path, "--detach").stderr
    until(lambda: run.status().state is State.RUNNING and run.status().step > step)
    process.send_signal(signal.SIGUSR2)
    until(lambda: run.status().state is State.PAUSED)
    process.send_signal(signal.SIGUSR1)
    process.send_signal(signal.SIGUSR2)
    until(lambda: run.status().state is State.RUNNING)
    process.send_signal(signal.SIGUSR2)
    until(lambda: run.status().state is State.PAUSED)
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    assert process.wait(120) == 0
    assert time.monotonic() - began < 15, "also a paused job stops at once"
    assert run.status().state is State.STOPPED
    refused = ecellm("pause", run.path)
    assert refused.returncode == 1
    assert "is not running" in refused.stderr


@pytest.mark.proof
def test_a_stop_while_loading_ends_at_once(tiny: Path, dataset: Path, tmp_path: Path) -> None:
    run = create_run(str(tiny), str(dataset), None, LONG, tmp_path / "run")
    process = jobs.start(run)
    until(lambda: run.owner() is not None)
    run.request(Control.STOP)
    assert process.wait(120) == 0
    assert run.status().state is State.STOPPED
    assert checkpoints(run) in ([], ["00000000"])


def _try_to_own(path: str, barrier: Any, won: Any) -> None:
    barrier.wait()
    try:
        with lock.hold(Path(path)):
            won.put(os.getpid())
            time.sleep(1.5)
    except lock.HeldError:
        won.put(None)


@pytest.mark.proof
def test_terminated_job_stops_cleanly(tiny: Path, dataset: Path, tmp_path: Path) -> None:
    settings = ["epochs=500", "batch_size=4", "eval_every=1000", "save_every=1000"]
    run = create_run(str(tiny), str(dataset), None, settings, tmp_path / "run")
    process = jobs.start(run)
    deadline = time.monotonic() + 120
    while run.status().step < 2 and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    assert process.wait(120) == 0
    assert run.status().state is jobs.State.STOPPED
    assert list((run.path / "checkpoints").glob("0*"))


def test_of_many_starters_one_wins(tmp_path: Path) -> None:
    spawn = multiprocessing.get_context("spawn")
    barrier, won = spawn.Barrier(4), spawn.Queue()
    arguments = (str(tmp_path / "lock"), barrier, won)
    starters = [spawn.Process(target=_try_to_own, args=arguments) for _ in range(4)]
    for starter in starters:
        starter.start()
    outcomes = [won.get(timeout=180) for _ in starters]
    for starter in starters:
        starter.join(30)
    won.close()
    won.join_thread()
    assert len([pid for pid in outcomes if pid]) == 1


def test_a_lock_survives_neither_its_process_nor_pid_reuse(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    mine = {"pid": os.getpid(), "host": socket.gethostname(), "started": 1.0}
    path.write_text(json.dumps(mine))
    assert lock.owner(path) is None, "this pid began at another time, and holds no lock"
    with lock.hold(path):
        assert lock.owner(path) == lock.myself()
    assert not path.exists()


def test_an_old_heartbeat_means_nothing(tmp_path: Path) -> None:
    run = jobs.create("train", {}, out=tmp_path / "run")
    context = jobs.JobContext(run)
    context.set_state(State.RUNNING)
    context.status.heartbeat = time.time() - 12 * 3600
    run.write_status(context.status)
    assert run.status().state is State.RUNNING
    # A clock that was set: the start time no longer fits, the lock still does.
    context.status.pid_started = 1.0
    run.write_status(context.status)
    with run.lock():
        assert run.status().state is State.RUNNING
    assert run.status().state is State.FAILED
    context.close()


class FullDisk:
    """Makes every durable write fail with ENOSPC while ``full``."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.full = False
        real_write, real_temporary = os.write, tempfile.mkstemp

        def write(descriptor: int, data: Any) -> int:
            if self.full:
                # As the system does it: a part may still fit.
                if len(data) > 10:
                    return real_write(descriptor, data[:10])
                raise OSError(errno.ENOSPC, "no space")
            return real_write(descriptor, data)

        def mkstemp(*arguments: Any, **named: Any) -> tuple[int, str]:
            if self.full:
                raise OSError(errno.ENOSPC, "no space")
            return real_temporary(*arguments, **named)

        monkeypatch.setattr("ecellm_mlx.jobs.events.os.write", write)
        monkeypatch.setattr("tempfile.mkstemp", mkstemp)


def test_a_full_disk_tears_no_event_and_loses_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = jobs.create("train", {}, out=tmp_path / "run")
    context = jobs.JobContext(run)
    disk = FullDisk(monkeypatch)
    disk.full = True
    for number in range(3):
        context.emit(events.Warned(message=f"number {number}"))
        context.set_state(State.RUNNING)
    disk.full = False
    context.emit(events.Warned(message="number 3"))
    seen = [event.message for event in run.reader().read() if isinstance(event, events.Warned)]
    assert seen == [f"number {number}" for number in range(4)]
    context.close()


def test_a_full_disk_pauses_until_resumed(tmp_path: Path) -> None:
    run = jobs.create("train", {}, out=tmp_path / "run")
    context = jobs.JobContext(run)
    attempts = []

    def write() -> None:
        attempts.append(run.status().state)
        if len(attempts) < 3:
            run.control_file.write_text("resume")
            raise DiskFullError("the disk is full")

    assert context.save(write, "the checkpoint of step 7")
    assert len(attempts) == 3
    warnings = [e.message for e in run.reader().read() if isinstance(e, events.Warned)]
    assert len(warnings) == 1
    assert "the checkpoint of step 7 cannot be saved" in warnings[0]
    assert f"ecellm resume {run.path}" in warnings[0]
    context.close()


@pytest.mark.proof
def test_a_training_job_outlives_a_size_limit(
    tiny: Path, dataset: Path, tmp_path: Path
) -> None:
    """The limit stands for a full disk: the system refuses to write the checkpoint."""
    settings = ["max_steps=4", "save_every=2", "batch_size=4", "micro_batch_size=2", "rank=64"]
    run = create_run(str(tiny), str(dataset), None, settings, tmp_path / "run")
    code = (
        "import resource, sys, threading, time\n"
        "from pathlib import Path\n"
        "from ecellm_mlx import jobs\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, resource.RLIM_INFINITY))\n"
        "run = jobs.RunDirectory(Path(sys.argv[1]))\n"
        "def make_room():\n"
        "    while run.status().state is not jobs.State.PAUSED: time.sleep(0.05)\n"
        "    assert not list((run.path / 'checkpoints').glob('0*'))\n"
        "    limit = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)\n"
        "    resource.setrlimit(resource.RLIMIT_FSIZE, limit)\n"
        "    run.request(jobs.Control.RESUME)\n"
        "threading.Thread(target=make_room, daemon=True).start()\n"
        "raise SystemExit(jobs.execute(run))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(run.path)],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert run.status().state is State.FINISHED
    assert checkpoints(run) == ["00000002", "00000004"]
    warnings = [e.message for e in run.reader().read() if isinstance(e, events.Warned)]
    assert any("cannot be saved" in text and "ecellm resume" in text for text in warnings)
