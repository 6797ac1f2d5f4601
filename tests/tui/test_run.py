"""One run, live: what it shows, what it asks of the job, and what it survives."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from typing import Any

from textual.pilot import Pilot
from textual.widgets import Button, OptionList

from ecellm_mlx.jobs import RunDirectory, State, events
from tui.app import EcellmApp
from tui.messages import RunChosen
from tui.screens.picker import RunPicker
from tui.screens.run import RunScreen
from tui.widgets.event_log import EventLog
from tui.widgets.loss_plot import LossPlot, LossTicks

from .conftest import job, screen_text, step, text_of, until, written

Start = Callable[[RunDirectory], Any]
WIDE = (120, 40)


async def watch(app: EcellmApp, pilot: Pilot[None], run: RunDirectory) -> RunScreen:
    await pilot.pause()
    app.post_message(RunChosen(run.path))
    await until(pilot, lambda: isinstance(app.screen, RunScreen))
    assert isinstance(app.screen, RunScreen)
    return app.screen


def log_text(screen: RunScreen) -> str:
    return "\n".join(line.text for line in screen.query_one(EventLog).lines)


async def test_a_job_is_paused_saved_stopped_and_resumed(start: Start) -> None:
    run = job(steps=3000, seconds=0.02)
    start(run)
    app = EcellmApp()
    async with app.run_test(size=WIDE) as pilot:
        screen = await watch(app, pilot, run)
        await until(pilot, lambda: screen.view.eta_s is not None and screen.view.step > 3)
        assert "to go" in text_of(app, "#state")
        assert "1.50 GiB" in screen_text(pilot)
        await pilot.press("r")
        assert screen.view.state is State.RUNNING

        await pilot.press("p")
        await until(pilot, lambda: screen.view.state is State.PAUSED)
        assert str(screen.query_one("#pause", Button).label) == "p Go on"
        await pilot.press("p")
        await until(pilot, lambda: screen.view.state is State.RUNNING)
        await pilot.press("c")
        await until(pilot, lambda: "checkpoint saved" in log_text(screen))
        await pilot.press("s")
        await until(pilot, lambda: screen.view.state is State.STOPPED)
        stopped_at = screen.view.step
        await pilot.pause()
        assert "ecellm resume" in text_of(app, "#banner")
        assert screen.query_one("#pause", Button).disabled

        await pilot.press("r")
        await until(pilot, lambda: screen.view.step > stopped_at)
        assert f"resumed from step {stopped_at}" in log_text(screen)
        assert screen.view.train.steps == tuple(range(1, len(screen.view.train.steps) + 1))
        await pilot.click("#orders Button.-error")
        await until(pilot, lambda: screen.view.state is State.STOPPED)


async def test_a_job_that_aborts_is_shown_as_failed(start: Start) -> None:
    run = job(abort_at=3)
    assert start(run).wait() == -6
    app = EcellmApp()
    async with app.run_test(size=WIDE) as pilot:
        screen = await watch(app, pilot, run)
        await until(pilot, lambda: screen.view.state is State.FAILED)
        await pilot.pause()
        assert "ran out of memory" in text_of(app, "#banner")
        assert str(run.log_file) in text_of(app, "#banner")
        assert "Insufficient Memory" in log_text(screen)
        await pilot.press("s")
        await pilot.pause()
        assert not run.control_file.exists()


async def test_a_failure_shows_its_sentence_and_the_log(start: Start) -> None:
    run = job(fail_at=3)
    assert start(run).wait() == 1
    app = EcellmApp()
    async with app.run_test(size=(80, 24)) as pilot:
        screen = await watch(app, pilot, run)
        await until(pilot, lambda: screen.view.state is State.FAILED)
        await pilot.pause()
        assert "no field [output]; correct the row." in text_of(app, "#banner")
        assert str(run.log_file) in text_of(app, "#banner")
        assert "no field [output]" in screen_text(pilot)
        assert log_text(screen).count("no field [output]") == 1


async def test_lines_that_are_no_events_are_reported() -> None:
    run = written(step(1), step(2))
    with run.events_file.open("a") as stream:
        stream.write('{"event": "train_met\n')
        stream.write(step(3).to_json().replace("0.0001", '"fast"') + "\n")
        stream.write(step(4, loss=0.25).to_json() + "\n")
        stream.write('{"event": "train_metrics"')
    app = EcellmApp()
    async with app.run_test(size=WIDE) as pilot:
        screen = await watch(app, pilot, run)
        await until(pilot, lambda: screen.view.step == 4)
        assert log_text(screen).count("is no event") == 2
        assert screen.view.train.steps == (1, 2, 4)


async def test_a_deleted_folder_is_a_sentence_and_the_curve_stays(start: Start) -> None:
    run = written(*(step(n) for n in range(1, 6)))
    app = EcellmApp()
    async with app.run_test(size=WIDE) as pilot:
        screen = await watch(app, pilot, run)
        await until(pilot, lambda: screen.view.step == 5)
        shutil.rmtree(run.path)
        await until(pilot, lambda: screen.view.problem)
        await pilot.pause()
        assert "moved or deleted" in text_of(app, "#banner")
        assert screen.view.train.steps == (1, 2, 3, 4, 5)
        for key in "pcsrl":
            await pilot.press(key)
        await pilot.press("escape")
        await until(pilot, lambda: app.current_mode == "home" and len(app.screen_stack) == 1)


async def test_the_plot_follows_scale_size_and_theme() -> None:
    happened: list[events.Event] = [step(n, loss=float("inf")) for n in (1, 2)]
    happened += [step(n, loss=4.0 / n) for n in range(3, 3000)]
    happened += [events.EvalMetrics(step=n, loss=5.0 / n) for n in (1000, 2000)]
    run = written(*happened, step=2999, total=2999)
    app = EcellmApp()
    async with app.run_test(size=WIDE) as pilot:
        screen = await watch(app, pilot, run)
        await until(pilot, lambda: screen.view.step == 2999)
        plot = screen.query_one(LossPlot)
        await until(pilot, lambda: len(plot._datasets) >= 2)
        assert 10 < len(plot._datasets[0].x) <= 2 * plot.size.width
        await pilot.press("l")
        await pilot.pause()
        assert "log scale" in str(screen.query_one("#curves").border_title)
        assert plot._datasets[0].y.max() < 1
        app.theme = "textual-light"
        await pilot.resize_terminal(80, 24)
        await until(pilot, lambda: len(plot._datasets[0].x) <= 2 * 80)
        await pilot.resize_terminal(20, 5)
        await pilot.pause()


async def test_counters_answers_and_a_second_run_are_shown() -> None:
    other = written(*(step(n, loss=9.0 / n) for n in range(1, 30)), step=29, total=29)
    facts = {"dropped_rows": 3, "cut_rows": 4, "padding": 0.05}
    run = written(
        events.Started(kind="train", pid=1, device="cpu", facts=facts),
        *(step(n, padding=0.07, skipped_steps=2) for n in range(1, 30)),
        events.Sample(step=20, task="PM", prompt="", prediction="no", reference="yes"),
        events.Sample(step=20, task="SA", prompt="", prediction="good", reference="good"),
        step=29,
        total=29,
    )
    app = EcellmApp()
    async with app.run_test(size=WIDE) as pilot:
        screen = await watch(app, pilot, run)
        await until(pilot, lambda: screen.view.step == 29)
        await pilot.pause()
        facts_shown = str(screen.query_one("#facts").render())
        for words in ("padding   7%", "skipped   2 steps", "out, cut  3, 4"):
            assert words in facts_shown

        await pilot.press("t")
        await pilot.pause()
        answers = text_of(app, "#sample-text")
        assert "≠ step 20 PM: no  (expected yes)" in answers
        assert "✓ step 20 SA: good" in answers
        await pilot.press("t")

        plot = screen.query_one(LossPlot)
        await until(pilot, lambda: plot._datasets)
        alone = len(plot._datasets)
        await pilot.press("x")
        await until(pilot, lambda: isinstance(app.screen, RunPicker))
        await until(pilot, lambda: app.screen.query_one(OptionList).option_count == 1)
        await pilot.press("enter")
        await until(pilot, lambda: screen.compared and screen.compared.step == 29)
        await until(pilot, lambda: len(plot._datasets) == alone + 1)
        title = str(screen.query_one("#curves").border_title)
        assert other.path.name in title
        # The same key takes it away.
        await pilot.press("x")
        await until(pilot, lambda: len(plot._datasets) == alone)


def test_labels_of_close_losses_differ() -> None:
    assert LossTicks(5, log=False).get_labels_for_ticks([2.225, 2.23]) == ["2.225", "2.23"]
    assert LossTicks(5, log=False).get_labels_for_ticks([0.5, 1.0]) == ["0.5", "1"]


async def test_a_catalog_job_shows_its_progress_without_curves() -> None:
    run = written(
        events.Progress(stage="rows", done=30, total=60, unit="rows", per_second=5.0), total=0
    )
    (run.path / "job.json").write_text(
        (run.path / "job.json").read_text().replace('"train"', '"catalog"')
    )
    app = EcellmApp()
    async with app.run_test(size=WIDE) as pilot:
        screen = await watch(app, pilot, run)
        await until(pilot, lambda: screen.view.step == 30)
        await pilot.pause()
        assert "rows 30/60" in text_of(app, "#state")
        assert not screen.query_one("#curves").display
