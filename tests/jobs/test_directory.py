"""A job is a process and a directory: it can be watched, stopped, killed, resumed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import types
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from ecellm_mlx import jobs
from ecellm_mlx.errors import JobError
from ecellm_mlx.jobs import events

pytestmark = pytest.mark.unit


@pytest.fixture
def run(tmp_path: Path) -> jobs.RunDirectory:
    return jobs.create("train", {"answer": 42}, out=tmp_path / "run")


@pytest.fixture
def context(run: jobs.RunDirectory) -> Iterator[jobs.JobContext]:
    context = jobs.JobContext(run)
    yield context
    context.close()


def dead_pid() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_job_json_is_written_once(run: jobs.RunDirectory) -> None:
    assert run.job().config == {"answer": 42}
    assert "mlx" in run.job().versions
    with pytest.raises(JobError, match="already holds a run"):
        jobs.create("train", {}, out=run.path)


def test_damaged_job_json_is_a_sentence(run: jobs.RunDirectory) -> None:
    (run.path / "job.json").write_text('{"kind": "tra')
    with pytest.raises(JobError, match="damaged"):
        run.job()
    with pytest.raises(JobError, match=r"no job\.json"):
        jobs.RunDirectory(run.path.parent).job()


def test_killed_process_is_reported_as_failed(
    run: jobs.RunDirectory, context: jobs.JobContext
) -> None:
    context.set_state(jobs.State.RUNNING)
    assert run.status().state is jobs.State.RUNNING
    context.status.pid = dead_pid()
    context.set_state(jobs.State.RUNNING)
    status = run.status()
    assert status.state is jobs.State.FAILED
    assert "job.log" in status.message


def test_lock_keeps_a_second_process_out(run: jobs.RunDirectory) -> None:
    with run.lock(), pytest.raises(JobError, match=f"process {os.getpid()}"), run.lock():
        pass


def test_stale_lock_is_taken_over(run: jobs.RunDirectory) -> None:
    import socket

    owner = {"pid": dead_pid(), "host": socket.gethostname()}
    (run.path / "lock").write_text(json.dumps(owner))
    with run.lock():
        assert json.loads((run.path / "lock").read_text())["pid"] == os.getpid()
    assert not (run.path / "lock").exists()


def mounted(monkeypatch: pytest.MonkeyPatch, path: Path, kind: str) -> None:
    """Let ``path`` lie on a volume of its own."""
    disk = types.SimpleNamespace(mountpoint=str(path.resolve()), fstype=kind)
    monkeypatch.setattr(psutil, "disk_partitions", lambda all: [disk])


def test_lock_of_another_host_is_respected_on_a_shared_volume(
    run: jobs.RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    mounted(monkeypatch, run.path, "nfs4")
    (run.path / "lock").write_text(json.dumps({"pid": 1, "host": "another-machine"}))
    owner = run.owner()
    assert owner is not None
    assert owner.host == "another-machine"
    with pytest.raises(JobError, match="another-machine"), run.lock():
        pass


def test_a_machine_that_was_renamed_takes_over_its_own_lock(
    run: jobs.RunDirectory, context: jobs.JobContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The name of a laptop changes with the network that it is in."""
    mounted(monkeypatch, run.path, "apfs")
    context.status.pid, context.status.host = dead_pid(), "laptop.at-home"
    context.set_state(jobs.State.RUNNING)
    assert run.status().state is jobs.State.FAILED
    (run.path / "lock").write_text(json.dumps({"pid": 1, "host": "laptop.at-home"}))
    assert run.owner() is None
    with run.lock():
        owner = run.owner()
        assert owner is not None
        assert owner.pid == os.getpid()


def test_pause_is_served_until_resume(run: jobs.RunDirectory, context: jobs.JobContext) -> None:
    context.set_state(jobs.State.RUNNING)
    run.request(jobs.Control.PAUSE)
    seen = []

    def on_pause() -> None:
        seen.append("saved")
        run.request(jobs.Control.RESUME)

    assert context.poll(on_pause) is None
    assert seen == ["saved"]
    assert run.status().state is jobs.State.RUNNING


def test_unknown_word_in_control_is_dropped(
    run: jobs.RunDirectory, context: jobs.JobContext
) -> None:
    run.control_file.write_text("dance")
    assert context.poll() is None
    assert not run.control_file.exists()


def test_request_to_a_dead_run_is_refused(
    run: jobs.RunDirectory, context: jobs.JobContext
) -> None:
    context.set_state(jobs.State.FINISHED)
    with pytest.raises(JobError, match="not running"):
        run.request(jobs.Control.STOP)


def test_failing_job_ends_in_a_sentence(tmp_path: Path) -> None:
    config = {"model": str(tmp_path / "none"), "recipe": {}, "train": "", "val": None}
    run = jobs.create("train", config, out=tmp_path / "run")
    assert jobs.start(run).wait(120) == 1
    status = run.status()
    assert status.state is jobs.State.FAILED
    assert str(tmp_path / "none") in status.message
    assert isinstance(list(run.reader().read())[-1], events.Failed)


def test_what_a_killed_job_was_writing_is_cleared(tmp_path: Path) -> None:
    run = jobs.create("eval", {"model": str(tmp_path / "nowhere")}, out=tmp_path / "run")
    (run.path / ".status.json.x3k_9abz").write_text("{")
    (run.path / ".notes").write_text("mine")
    jobs.execute(run)
    assert not (run.path / ".status.json.x3k_9abz").exists()
    assert (run.path / ".notes").exists()


def test_events_survive_torn_and_foreign_lines(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_text('{"event": "progress", "stage": "a", "do')
    writer = events.EventWriter(path)
    writer.write(events.Warned(message="a\u2028b\nc"))
    writer.close()
    reader = events.EventReader(path)
    first, second = list(reader.read())
    assert isinstance(first, events.Unreadable)
    assert second == events.Warned(message="a\u2028b\nc", time=second.time)
    with path.open("a") as stream:
        stream.write('{"event": "warning", "mess')
        stream.flush()
        assert list(reader.read()) == []
        stream.write('age": "later"}\n[1]\n{"event": "unheard"}\n')
    later = list(reader.read())
    assert [type(e) for e in later] == [events.Warned, events.Unreadable, events.Unreadable]


def test_events_never_write_nan(tmp_path: Path) -> None:
    event = events.EvalMetrics(step=1, loss=float("nan"), metrics={"x": [float("inf")]})
    value = json.loads(event.to_json(), parse_constant=pytest.fail)
    assert value["loss"] is None
    assert value["metrics"] == {"x": [None]}
