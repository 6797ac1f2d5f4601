"""Folding events into a picture, and drawing numbers: no app needed."""

from __future__ import annotations

import math
import time
from dataclasses import fields

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hsettings
from hypothesis import strategies as st

from ecellm_mlx.jobs import State, Status, events
from tui import formats, runs
from tui.follow import Follower
from tui.history import Curve, RunHistory
from tui.widgets.loss_plot import LossTicks, StepTicks, downsample

from .conftest import job, step, written

pytestmark = pytest.mark.unit

RUNNING = Status(state=State.RUNNING, total_steps=100)
finite = st.floats(min_value=1e-9, max_value=1e9)


def test_a_resumed_run_tells_each_step_once() -> None:
    history = RunHistory("train")
    for number in range(1, 8):
        history.apply(step(number))
    history.apply(events.EvalMetrics(step=6, loss=9.0))
    history.apply(events.Started(kind="train", pid=1, device="cpu", resumed_from=4))
    history.apply(step(5, loss=0.125))
    view = history.view(RUNNING)
    assert view.train.steps == (1, 2, 3, 4, 5)
    assert view.train.last == 0.125
    assert view.validation.steps == ()
    assert view.step == 5


def test_a_new_start_forgets_an_old_failure() -> None:
    history = RunHistory("train")
    history.apply(events.Failed(message="the disk is full."))
    failed = Status(state=State.FAILED, message="gone")
    assert history.view(failed).message == "the disk is full."
    history.apply(events.Started(kind="train", pid=1, device="cpu"))
    assert history.view(failed).message == "gone"


def test_time_to_go_is_that_of_the_last_steps() -> None:
    history = RunHistory("train")
    now = time.time()
    for number in range(1, 51):
        history.apply(step(number, time=now - (50 - number) * 0.5))
    assert history.view(RUNNING).eta_s == pytest.approx(25, abs=2)
    assert history.view(Status(state=State.PAUSED, total_steps=100)).eta_s is None
    history.apply(step(51))
    assert history.view(RUNNING).eta_s is None


def test_a_loss_that_is_not_finite_leaves_a_gap() -> None:
    history = RunHistory("train")
    for number, loss in ((1, 2.0), (2, math.nan), (3, 1.0)):
        history.apply(events.parse_event(step(number, loss=loss).to_json()))
    view = history.view(RUNNING)
    assert view.train == Curve((1, 3), (2.0, 1.0))
    assert view.step == 3


# Hypothesis makes its tables of characters with the first text, which is slow under load.
@hsettings(suppress_health_check=[HealthCheck.too_slow])
@given(
    st.dictionaries(
        st.sampled_from(["step", "loss", "time", "message"]),
        st.none() | st.text() | st.floats() | st.integers(),
    )
)
def test_fields_of_the_wrong_type_never_raise(wrong: dict[str, object]) -> None:
    history = RunHistory("train")
    for cls in events.EVENT_TYPES.values():
        names = {f.name for f in fields(cls)}
        values = dict.fromkeys(names - {"time"}) | {k: wrong[k] for k in names & set(wrong)}
        if line := history.apply(cls(**values)):
            assert time.localtime(line.time)
    history.view(RUNNING)


def test_a_follower_tells_everything_once() -> None:
    run = written(step(1), events.Warned(message="look [here]"))
    follower = Follower(run)
    view, lines = follower.look()
    assert view.step == 1
    assert [line.text for line in lines] == ["look [here]"]
    assert follower.look() == (view, [])


def test_a_word_that_waits_is_shown() -> None:
    run = job()
    run.control_file.write_text("stop")
    assert Follower(run).look()[0].pending == "stop"
    assert runs.summarize(run).state is State.STARTING


@given(st.lists(finite, max_size=400), st.integers(8, 200), st.booleans())
def test_downsampling_keeps_the_mean_and_the_limit(
    values: list[float], limit: int, log: bool
) -> None:
    steps, drawn = downsample(Curve(tuple(range(len(values))), tuple(values)), limit, log=log)
    assert len(steps) == len(drawn) == min(limit, len(values))
    assert all(math.isfinite(value) for value in drawn)
    assert list(steps) == sorted(steps)
    if values and not log:
        assert min(values) * 0.999 <= drawn.min() <= drawn.max() <= max(values) * 1.001


@given(st.floats(-8, 8), st.floats(1e-3, 8), st.integers(1, 6), st.booleans())
def test_ticks_are_few_and_within_the_axis(
    low: float, span: float, most: int, log: bool
) -> None:
    axis = LossTicks(most, log=log)
    ticks, labels = axis.get_ticks_and_labels(low, low + span)
    assert 2 <= len(ticks) <= max(3, most + 1)
    assert all(low - 1e-9 <= tick <= low + span + 1e-9 for tick in ticks)
    assert len(labels) == len(ticks)
    whole = StepTicks(most).get_ticks(round(low), round(low) + round(span * 100) + 1)
    assert all(tick == int(tick) for tick in whole)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.2, "0 s"),
        (59.6, "1 min 00 s"),
        (185, "3 min 05 s"),
        (7860, "2 h 11 min"),
        (97200, "1 d 3 h"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert formats.duration(seconds) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "–"), (0.0, "0"), (1e-4, "0.0001"), (0.51234567, "0.5123"), (12345.6, "12,346")],
)
def test_numbers(value: float | None, text: str) -> None:
    assert formats.number(value) == text
