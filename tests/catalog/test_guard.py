"""Pausing on low battery and short memory, with readings that a test can set."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from ecellm_mlx import jobs
from ecellm_mlx.catalog.guard import Guard
from ecellm_mlx.device import mac
from ecellm_mlx.device.mac import Battery
from ecellm_mlx.jobs import Control, State

pytestmark = pytest.mark.unit


class Scene:
    """A job whose waiting is scripted: what happens at each look."""

    def __init__(self, folder: Path) -> None:
        self.run = jobs.create("catalog", {}, out=folder)
        self.context = jobs.JobContext(self.run)
        self.context.set_state(State.RUNNING)
        self.states: list[tuple[State, str]] = []
        self.steps: list[Callable[[], object]] = []

    def sleep(self, _: float) -> None:
        status = self.run.status()
        self.states.append((status.state, status.message))
        if not self.steps:
            raise AssertionError("the guard waits for ever")
        self.steps.pop(0)()


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    found = Scene(tmp_path / "run")
    yield found
    found.context.close()


def test_a_low_battery_pauses_until_it_is_plugged_in(scene: Scene) -> None:
    now = [Battery(15.0, False)]
    guard = Guard(20, battery=lambda: now[0], sleep=scene.sleep, interval_s=0)
    scene.steps = [lambda: None, lambda: now.__setitem__(0, Battery(15.0, True))]
    assert guard.poll(scene.context) is None
    # Once paused, it waits for a tenth more.
    assert scene.states == [
        (State.PAUSED, f"paused: battery at 15%, below {limit}%") for limit in (20, 22)
    ]
    assert scene.run.status().state is State.RUNNING


def test_charge_must_rise_above_the_limit(scene: Scene) -> None:
    now = [Battery(19.0, False)]
    guard = Guard(20, battery=lambda: now[0], sleep=scene.sleep, interval_s=0)
    scene.steps = [
        lambda: now.__setitem__(0, Battery(21.0, False)),
        lambda: now.__setitem__(0, Battery(23.0, False)),
    ]
    assert guard.poll(scene.context) is None
    assert not scene.steps


def test_short_memory_pauses(scene: Scene) -> None:
    free = [0.5]
    guard = Guard(memory_gb=1.0, memory=lambda: free[0], sleep=scene.sleep, interval_s=0)
    scene.steps = [lambda: free.__setitem__(0, 4.0)]
    assert guard.poll(scene.context) is None
    assert scene.states == [(State.PAUSED, "paused: 0.5 GB of memory available, below 1 GB")]


def test_stop_works_while_paused(scene: Scene) -> None:
    guard = Guard(20, battery=lambda: Battery(5, False), sleep=scene.sleep, interval_s=0)
    scene.steps = [lambda: scene.run.request(Control.STOP)]
    assert guard.poll(scene.context) is Control.STOP


def test_the_user_overrules_until_the_condition_has_passed(scene: Scene) -> None:
    now = [Battery(5, False)]
    guard = Guard(20, battery=lambda: now[0], sleep=scene.sleep, interval_s=0)
    scene.steps = [lambda: scene.run.request(Control.RESUME)]
    assert guard.poll(scene.context) is None
    assert guard.poll(scene.context) is None
    assert len(scene.states) == 1
    now[0] = Battery(90, True)
    assert guard.poll(scene.context) is None
    now[0] = Battery(4, False)
    scene.steps = [lambda: scene.run.request(Control.RESUME)]
    assert guard.poll(scene.context) is None
    assert len(scene.states) == 2


def test_nothing_asked_nothing_read(scene: Scene) -> None:
    def read() -> Battery:
        raise AssertionError("read")

    assert Guard(battery=read, memory=lambda: 0.0, interval_s=0).poll(scene.context) is None


@pytest.mark.parametrize(
    ("reading", "expected"),
    [
        (None, None),
        ((41.0, 3600, True), Battery(41.0, True)),
        ((41.0, 3600, False), Battery(41.0, False)),
        ((41.0, 3600, None), Battery(41.0, True)),
    ],
)
def test_the_reading_of_the_system(
    monkeypatch: pytest.MonkeyPatch, reading: tuple[float, int, bool | None] | None,
    expected: Battery | None,
) -> None:  # fmt: skip
    kind = type("sbattery", (), {})
    value = None
    if reading:
        value = kind()
        value.percent, value.secsleft, value.power_plugged = reading
    monkeypatch.setattr(psutil, "sensors_battery", lambda: value, raising=False)
    assert mac.battery() == expected
    monkeypatch.delattr(psutil, "sensors_battery", raising=False)
    assert mac.battery() is None
