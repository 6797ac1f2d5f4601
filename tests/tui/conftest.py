"""A workspace, a doctor that answers at once, and jobs that are real processes."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file
from textual import constants
from textual.app import App
from textual.pilot import Pilot
from textual.widgets import Static

from ecellm_mlx import jobs
from ecellm_mlx.jobs import RunDirectory, State, Status, events
from ecellm_mlx.jobs.events import EventWriter
from tui import device

CHILD = Path(__file__).with_name("child.py")
DIAGNOSIS = {
    "device": "cpu",
    "blas": "openblas",
    "blas_gflops": 130.4,
    "memory_gb": 16.0,
    "versions": {"mlx": "0.32.4", "mlx-lm": "0.32.2"},
    "checks": [
        {"name": "blas", "status": "ok", "detail": "fast", "cure": ""},
        {"name": "disk", "status": "warn", "detail": "2 GB left [!]", "cure": "free some"},
    ],
}
# Nobody waits so long, but for a machine that is busy with other things.
DEADLINE_S = 120.0


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A workspace of its own for every test."""
    path = tmp_path / "home"
    monkeypatch.setenv("ECELLM_HOME", str(path))
    return path


@pytest.fixture(autouse=True)
def still(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing glides: a key that scrolls would take a third of a second."""
    monkeypatch.setattr(constants, "TEXTUAL_ANIMATIONS", "none")


@pytest.fixture(autouse=True)
def doctor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program in the doctor's place; tests may rewrite it."""
    program = tmp_path / "doctor.py"
    program.write_text(f"print({json.dumps(json.dumps(DIAGNOSIS))})")
    monkeypatch.setattr(device, "DOCTOR", (sys.executable, "-S", str(program)))
    return program


@pytest.fixture
def model(home: Path) -> str:
    """An installed model: small, but with a real config and real weights."""
    folder = home / "models" / "tiny"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text('{"model_type": "llama"}')
    save_file({"model.norm.weight": np.ones(4, np.float32)}, folder / "model.safetensors")
    return "tiny"


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[RunDirectory], Any]]:
    """Start a job as ``jobs.start`` does, with ``child.py`` in place of training.

    The app under test gets the same through ``jobs.start``. What still runs at the
    end of a test is ended.
    """
    children: list[subprocess.Popen[bytes]] = []

    def start(run: RunDirectory) -> subprocess.Popen[bytes]:
        with run.log_file.open("ab") as log:
            child = subprocess.Popen(
                [sys.executable, str(CHILD), str(run.path)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        children.append(child)
        return child

    monkeypatch.setattr(jobs, "start", start)
    yield start
    for child in children:
        if child.poll() is None:
            child.kill()
        child.wait()


def job(steps: int = 40, seconds: float = 0.0, **config: Any) -> RunDirectory:
    """A run directory for ``child.py``."""
    return jobs.create(
        "train", {"model_name": "tiny", "steps": steps, "seconds": seconds, **config}
    )


def written(
    *happened: events.Event, state: State = State.FINISHED, total: int = 40, **status: Any
) -> RunDirectory:
    """A run that has ended, with these events on disk."""
    run = job()
    writer = EventWriter(run.events_file)
    for event in happened:
        writer.write(event)
    writer.close()
    run.write_status(Status(state=state, total_steps=total, **status))
    return run


def step(number: int, loss: float | None = None, **changes: Any) -> events.TrainMetrics:
    """One optimizer step, half a second after the one before."""
    values: dict[str, Any] = {
        "time": 1_000.0 + number / 2,
        "step": number,
        "loss": 4.0 / number if loss is None else loss,
        "learning_rate": 1e-4,
        "grad_norm": 0.5,
        "supervised_tokens": 16,
        "tokens_per_second": 321.0,
        "rows_per_second": 2.5,
        "peak_memory_gb": 1.25,
    }
    return events.TrainMetrics(**{**values, **changes})


async def until(
    pilot: Pilot[Any],
    happened: Callable[[], object],
    what: str = "",
    seconds: float = DEADLINE_S,
) -> None:
    """Let the app go on until ``happened()``; fail when it never does."""
    end = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < end, f"waited in vain for {what or happened}"
        await asyncio.sleep(0.05)
        await pilot.pause()


async def soon(happened: Callable[[], object], what: str = "") -> None:
    """Like ``until``, for an app that is never idle meanwhile."""
    end = time.monotonic() + DEADLINE_S
    while not happened():
        assert time.monotonic() < end, f"waited in vain for {what or happened}"
        await asyncio.sleep(0.01)


def screen_text(pilot: Pilot[Any]) -> str:
    """What stands on the screen now, line by line."""
    screen = pilot.app.screen
    strips = screen._compositor.render_strips(pilot.app.size)
    return "\n".join("".join(segment.text for segment in strip) for strip in strips)


def notices(app: App[Any]) -> str:
    """What the app has told the user in passing."""
    return "\n".join(notice.message for notice in app._notifications)


def text_of(app: App[Any], selector: str) -> str:
    """The plain text of a ``Static`` on the current screen."""
    return str(app.screen.query_one(selector, Static).render())


@pytest.fixture(scope="session")
def trained(tiny_models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished training run of the tiny model, with an adapter that says other things."""
    from ecellm_mlx.device.backend import mx
    from ecellm_mlx.models import loading, lora

    base = loading.load(tiny_models["llama"])
    spec = lora.LoraSpec(4, 4.0, 0.0, lora.resolve_targets(base.model, ["all-linear"]))
    lora.attach(base.model, spec, seed=1)
    mx.random.seed(2)
    for name, value in lora.parameters(base.model).items():
        if name.endswith("lora_b"):
            base.model.load_weights([(name, mx.random.normal(value.shape))], strict=False)
    run = tmp_path_factory.mktemp("trained") / "train-of-a-tiny-model"
    config = {"model": str(base.path), "model_name": str(base.path)}
    made = jobs.create("train", config, out=run)
    (run / "adapter").mkdir()
    about = {"name": str(base.path), "model_type": "llama", "fingerprint": base.fingerprint}
    lora.save(run / "adapter", base.model, spec, {"base": {**about, "layers": 2}})
    made.write_status(Status(state=State.FINISHED, step=1, total_steps=1))
    return run
