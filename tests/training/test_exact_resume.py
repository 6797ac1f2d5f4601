"""A run that is killed at any instant ends as one that was never disturbed.

The processes are real and SIGKILL ends them, at random instants, while they load,
within a save and between two steps. Dropout is on.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ecellm_mlx import jobs
from ecellm_mlx.device.backend import mx
from ecellm_mlx.jobs import events
from ecellm_mlx.training import checkpoint
from ecellm_mlx.training.setup import create_run

KILLER = Path(__file__).with_name("killer.py")
KILLS = 20
SETTINGS = [
    "batch_size=4",
    "micro_batch_size=2",
    "max_steps=24",
    "learning_rate=1e-2",
    "dropout=0.3",
    "save_every=2",
    "eval_every=5",
]


class Killer:
    """The process that runs and kills a job on order."""

    def __init__(self, run: jobs.RunDirectory) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(KILLER), str(run.path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"},
        )

    def __enter__(self) -> Killer:
        return self

    def __exit__(self, *_: object) -> None:
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait(60)
        assert self.process.stdout
        self.process.stdout.close()

    def order(self, text: str) -> str:
        """Run the job once; what became of it."""
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(text + "\n")
        self.process.stdin.flush()
        return self.process.stdout.readline().strip()


def final(run: jobs.RunDirectory) -> dict[str, dict[str, mx.array]]:
    """All tensors that a finished run leaves: best adapter, last adapter, optimizer."""
    last = checkpoint.complete(run.path / "checkpoints")[-1]
    files = {
        "best": run.path / "adapter" / "adapters.safetensors",
        "last": last / "adapters.safetensors",
        "optimizer": last / "optimizer.safetensors",
    }
    return {name: mx.load(str(path)) for name, path in files.items()}


def told(run: jobs.RunDirectory, kind: type[events.Event]) -> list[Any]:
    return [event for event in run.reader().read() if isinstance(event, kind)]


@pytest.mark.proof
def test_killed_at_random_instants_it_ends_bit_for_bit_the_same(
    tiny: Path, dataset: Path, tmp_path: Path
) -> None:
    whole = create_run(str(tiny), str(dataset), None, SETTINGS, tmp_path / "whole")
    with Killer(whole) as killer:
        assert killer.order("end") == "0"
    broken = create_run(str(tiny), str(dataset), None, SETTINGS, tmp_path / "broken")
    dice = random.Random(7)
    kills = 0
    with Killer(broken) as killer:
        for number in range(KILLS):
            kind = ("save", "after", "save", "start")[number % 4]
            longest = {"save": 0.012, "after": 0.15, "start": 0.4}[kind]
            outcome = killer.order(f"{kind} {dice.random() * longest:.4f}")
            kills += outcome == "killed"
            if outcome == "0":
                break
            assert outcome == "killed", (broken.path / "job.log").read_text()
        assert killer.order("end") == "0", (broken.path / "job.log").read_text()
    assert kills >= 8, "the job ended before it could be killed often enough"
    expected, got = final(whole), final(broken)
    for name, tensors in expected.items():
        assert tensors.keys() == got[name].keys()
        for key, array in tensors.items():
            assert mx.array_equal(array, got[name][key]), (name, key)
    losses = {event.step: event.loss for event in told(whole, events.TrainMetrics)}
    for event in told(broken, events.TrainMetrics):
        assert event.loss == losses[event.step], "a repeated step repeats its loss to the bit"
    validations = {event.step: event.loss for event in told(whole, events.EvalMetrics)}
    assert sorted(validations) == [5, 10, 15, 20, 24]
    for event in told(broken, events.EvalMetrics):
        assert event.loss == validations[event.step]
    folder = broken.path / "checkpoints"
    assert sorted(path.name for path in folder.iterdir()) == ["00000022", "00000024"]


@pytest.mark.proof
def test_a_killed_real_job_is_resumed_by_the_command(
    ecellm_process: Any, tiny: Path, dataset: Path, tmp_path: Path
) -> None:
    run = create_run(str(tiny), str(dataset), None, SETTINGS, tmp_path / "run")
    process = jobs.start(run)
    reader = run.reader()
    while not any(isinstance(event, events.Checkpoint) for event in reader.read()):
        assert process.poll() is None, run.log_file.read_text()
    process.send_signal(signal.SIGKILL)
    process.wait(30)
    listed = json.loads(ecellm_process("runs", "--json").stdout)
    assert listed == [], "the run is not in the workspace"
    assert run.status().state is jobs.State.FAILED
    done = ecellm_process("resume", run.path, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["outcome"] == "finished"
    assert "resumed from step" in done.stderr
    assert run.status().state is jobs.State.FINISHED
    assert told(run, events.Started)[1].resumed_from >= 2
    again = ecellm_process("resume", run.path)
    assert again.returncode == 1
    assert "is finished" in again.stderr


@pytest.fixture
def finished(tiny: Path, dataset: Path, tmp_path: Path) -> jobs.RunDirectory:
    """A run with two checkpoints, in this process."""
    settings = [*SETTINGS, "max_steps=4"]
    run = create_run(str(tiny), str(dataset), None, settings, tmp_path / "run")
    assert jobs.execute(run) == 0
    return run


def test_an_edited_recipe_is_refused_by_its_key(finished: jobs.RunDirectory) -> None:
    path = finished.path / "job.json"
    path.write_text(path.read_text().replace('"learning_rate": 0.01', '"learning_rate": 0.1'))
    assert jobs.execute(finished) == 1
    message = finished.status().message
    assert "the recipe changed" in message
    assert "learning_rate 0.01 → 0.1" in message


def test_other_versions_are_told(finished: jobs.RunDirectory) -> None:
    newest = checkpoint.complete(finished.path / "checkpoints")[-1]
    conditions = json.loads((newest / "conditions.json").read_text())
    assert {"mlx", "mlx-lm", "python", "blas", "device", "threads"} <= conditions.keys()
    now = {**conditions, "mlx": "99.0"}
    assert checkpoint.changed_conditions(newest, now) == [f"mlx {conditions['mlx']} → 99.0"]


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("optimizer.safetensors", "optimizer.safetensors has another checksum"),
        ("trainer.json", "trainer.json has another checksum"),
        ("manifest.json", "manifest.json is no manifest"),
    ],
)
def test_a_damaged_file_falls_back_and_says_so(
    finished: jobs.RunDirectory, name: str, problem: str
) -> None:
    newest = finished.path / "checkpoints" / "00000004"
    content = (newest / name).read_bytes()
    (newest / name).write_bytes(content[: len(content) // 2])
    expected = final_adapter(finished)
    assert jobs.execute(finished) == 0
    warnings = [event.message for event in told(finished, events.Warned)]
    assert any("00000004 is damaged" in text and problem in text for text in warnings)
    assert told(finished, events.Started)[-1].resumed_from == 2
    assert final_adapter(finished) == expected


def final_adapter(run: jobs.RunDirectory) -> bytes:
    return (run.path / "adapter" / "adapters.safetensors").read_bytes()


def test_a_crash_between_two_renames_is_undone(finished: jobs.RunDirectory) -> None:
    folder = finished.path / "checkpoints"
    (folder / "00000004").rename(folder / ".00000004.old")
    (folder / ".00000005.partial").mkdir()
    (finished.path / "adapter").rename(finished.path / ".adapter.old")
    assert checkpoint.newest_valid(folder, pytest.fail) == folder / "00000004"
    checkpoint.recover_adapter(finished.path / "adapter")
    assert final_adapter(finished)
