"""Ranks under ``mlx.launch`` train what one process trains, and act as one.

Two processes on this machine, over the ring backend on the loopback interface, started
by the command that a user types.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ecellm_mlx import jobs
from ecellm_mlx.data import rows
from ecellm_mlx.device.backend import mx
from ecellm_mlx.jobs import events
from ecellm_mlx.training import checkpoint
from tests.conftest import write_rows

SETTINGS = [
    "batch_size=6",
    "micro_batch_size=2",
    "epochs=4",
    "learning_rate=1e-2",
    "dropout=0.3",
    "save_every=1000",
]
STEPS = 12  # 18 rows, three steps an epoch
Launch = Callable[..., subprocess.Popen[str]]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def launch() -> Iterator[Launch]:
    """Start ``ecellm`` on two ranks; ends what a failed test leaves running."""
    started: list[subprocess.Popen[str]] = []

    def start(*arguments: object, ranks: int = 2) -> subprocess.Popen[str]:
        program = Path(sys.executable).with_name("mlx.launch")
        # Ranks that share a machine share its cores.
        threads = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        # A shell, so that an argument may differ by rank: $MLX_RANK.
        command = " ".join([sys.executable, "-m", "ecellm_mlx.cli", *map(str, arguments)])
        process = subprocess.Popen(
            [program, "-n", str(ranks), "--starting-port", str(free_port()), "--",
             "bash", "-c", f"exec {command}"],
            # mlx.launch spins on a standard input that is at its end.
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env={**os.environ, **threads},
        )  # fmt: skip
        started.append(process)
        return process

    yield start
    for process in started:
        process.terminate()
        process.communicate(timeout=30)


def order(model: Path, data: object, out: Path, *settings: str) -> list[object]:
    chosen = [part for item in [*SETTINGS, *settings] for part in ("--set", item)]
    return ["train", "--model", model, "--data", data, "--out", out, "--json", *chosen]


def losses(run: Path, kind: Any = events.TrainMetrics) -> list[float]:
    reader = jobs.RunDirectory(run).reader()
    return [event.loss for event in reader.read() if isinstance(event, kind)]


def adapter(run: Path) -> dict[str, np.ndarray]:
    folder = checkpoint.complete(run / "checkpoints")[-1]
    loaded = mx.load(str(folder / "adapters.safetensors"))
    assert isinstance(loaded, dict)
    return {name: np.array(array) for name, array in loaded.items()}


def wait_until(condition: Callable[[], bool], seconds: float = 300) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.proof
def test_two_ranks_equal_one_and_stop_and_resume_as_one(
    tiny: Path, dataset: Path, tmp_path: Path, ecellm_process: Any, launch: Launch
) -> None:
    alone, whole, parts = (tmp_path / name for name in ("alone", "whole", "parts"))
    assert ecellm_process(*order(tiny, dataset, alone)).returncode == 0
    expected = losses(alone)
    assert len(expected) == STEPS

    process = launch(*order(tiny, dataset, whole))
    stdout, stderr = process.communicate(timeout=300)
    assert process.returncode == 0, stderr
    assert json.loads(stdout)["steps"] == STEPS
    assert losses(whole) == pytest.approx(expected, rel=1e-5)
    validations = losses(alone, events.EvalMetrics)
    assert losses(whole, events.EvalMetrics) == pytest.approx(validations, rel=1e-5)
    for name, array in adapter(alone).items():
        assert np.abs(adapter(whole)[name] - array).max() < 1e-4, name

    process = launch(*order(tiny, dataset, parts))
    run = jobs.RunDirectory(parts)
    wait_until(lambda: (parts / "status.json").exists())
    run.request(jobs.Control.PAUSE)
    wait_until(lambda: run.status().state is jobs.State.PAUSED)
    run.request(jobs.Control.RESUME)
    wait_until(lambda: run.status().state is jobs.State.RUNNING)
    run.request(jobs.Control.STOP)
    stdout, stderr = process.communicate(timeout=300)
    assert process.returncode == 0, stderr
    stopped = json.loads(stdout)
    assert (stopped["outcome"], run.status().state) == ("stopped", jobs.State.STOPPED)
    assert 0 < stopped["steps"] < STEPS
    stdout, stderr = launch("resume", parts, "--json").communicate(timeout=300)
    assert json.loads(stdout)["outcome"] == "finished", stderr
    for name, array in adapter(whole).items():
        assert np.array_equal(adapter(parts)[name], array), name


@pytest.mark.proof
def test_an_error_of_one_rank_ends_all_with_its_sentence(
    tiny: Path, dataset: Path, tmp_path: Path, launch: Launch
) -> None:
    for rank, count in ((0, 9), (1, 8)):
        folder = tmp_path / f"data{rank}"
        folder.mkdir()
        chosen = rows.load(dataset / "train.jsonl")[:count]
        write_rows(folder / "train.jsonl", chosen)
    process = launch(*order(tiny, f"{tmp_path}/data$MLX_RANK", tmp_path / "run"))
    stdout, stderr = process.communicate(timeout=300)
    assert process.returncode == 0  # mlx.launch's own; the ranks' are in its warnings
    assert "rank 1" in stderr
    assert "the training rows changed since this run was created" in stderr
    assert "Traceback" not in stderr
    assert not stdout.strip()
    assert jobs.RunDirectory(tmp_path / "run").status().state is jobs.State.FAILED


@pytest.mark.proof
def test_steps_that_are_not_finite_are_skipped_by_all_ranks(
    tiny: Path, dataset: Path, tmp_path: Path, launch: Launch
) -> None:
    settings = ["learning_rate=1e38", "warmup_ratio=0", "max_skipped_steps=2"]
    process = launch(*order(tiny, dataset, tmp_path / "run", *settings))
    _, stderr = process.communicate(timeout=300)
    assert "was not finite for 2 steps in a row" in stderr
    warnings = [e.message for e in jobs.RunDirectory(tmp_path / "run").reader().read()
                if isinstance(e, events.Warned)]  # fmt: skip
    assert sum("in 3 of 3 micro-batches" in message for message in warnings) == 2
