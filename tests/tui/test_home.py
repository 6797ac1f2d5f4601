"""Home shows the machine and the runs that are on disk."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from textual.widgets import DataTable

from ecellm_mlx.jobs import RunDirectory, State, events
from tui.app import EcellmApp
from tui.screens.run import RunScreen

from .conftest import job, screen_text, step, text_of, until, written

WIDE = (120, 40)


def table(app: EcellmApp) -> DataTable:
    return app.get_screen_stack("home")[0].query_one(DataTable)


async def test_without_runs_it_says_what_to_do() -> None:
    app = EcellmApp()
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: "ecellm train" in screen_text(pilot))
        assert not table(app).display
        await pilot.press("enter")
        assert len(app.screen_stack) == 1


async def test_runs_on_disk_are_listed_live_ones_first(
    start: Callable[[RunDirectory], object],
) -> None:
    live = job(steps=1000, seconds=0.05)
    start(live)
    written(step(3), events.Finished(outcome="finished"), step=40)
    written(step(1), state=State.FAILED, message="the disk is full.")
    app = EcellmApp()
    async with app.run_test(size=WIDE) as pilot:
        await until(
            pilot, lambda: table(app).row_count == 3 and "running" in screen_text(pilot)
        )
        assert str(table(app).get_row_at(0)[0]) == live.path.name
        states = {str(table(app).get_row_at(i)[1]) for i in range(3)}
        assert states == {"running", "finished", "failed"}
        assert "Runs, 1 live" in screen_text(pilot)
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(app.screen, RunScreen))
        assert app.screen.run.path == live.path


async def test_a_click_opens_a_run() -> None:
    run = written(step(1))
    app = EcellmApp()
    async with app.run_test(size=WIDE) as pilot:
        # Measured and in its place, not only filled: a click lands on what is drawn.
        await until(pilot, lambda: table(app).virtual_size.height > 1)
        await until(pilot, lambda: run.path.name in screen_text(pilot))
        await pilot.click(DataTable, offset=(5, 1))
        await until(pilot, lambda: isinstance(app.screen, RunScreen))
        assert app.screen.run.path == run.path


async def test_damaged_runs_are_listed_and_explained() -> None:
    run = written(step(1))
    (run.path / "job.json").write_text('{"kind": [')
    app = EcellmApp()
    async with app.run_test(size=WIDE) as pilot:
        await until(pilot, lambda: table(app).row_count == 1)
        assert str(table(app).get_row_at(0)[1]) == "failed"
        await pilot.press("enter")
        await until(
            pilot, lambda: isinstance(app.screen, RunScreen) and app.screen.view.problem
        )
        await pilot.pause()
        assert "damaged" in text_of(app, "#banner")


async def test_odd_values_in_a_status_do_no_harm() -> None:
    run = written(step(1))
    (run.path / "status.json").write_text('{"state": "finished", "step": "many"}')
    app = EcellmApp()
    async with app.run_test(size=WIDE) as pilot:
        await until(pilot, lambda: table(app).row_count == 1)
        assert str(table(app).get_row_at(0)[1]) == "failed"


async def test_a_run_that_disappears_leaves_the_list() -> None:
    first, second = written(step(1)), written(step(2))
    app = EcellmApp()
    async with app.run_test(size=WIDE) as pilot:
        await until(pilot, lambda: table(app).row_count == 2)
        shutil.rmtree(first.path)
        app.screen.call_later(app.screen._refresh_all)
        await until(pilot, lambda: table(app).row_count == 1)
        assert str(table(app).get_row_at(0)[0]) == second.path.name


async def test_the_doctor_says_what_mlx_knows() -> None:
    app = EcellmApp()
    async with app.run_test(size=WIDE) as pilot:
        await until(pilot, lambda: "130 GFLOP/s" in text_of(app, "#doctor"))
        text = text_of(app, "#doctor")
        assert "openblas" in text
        assert "mlx 0.32.4" in text
        assert "! disk: 2 GB left [!]; free some" in text
        assert "1 check is fine" in text
        # The facts are read once the place stands, which may be after the doctor has spoken.
        await until(pilot, lambda: "GiB free" in text_of_facts(app))


@pytest.mark.parametrize(
    "program",
    [
        "import sys; sys.exit('no BLAS could be loaded')",
        "print('[1, 2]'); raise SystemExit('no BLAS could be loaded')",
    ],
)
async def test_a_doctor_that_fails_is_a_sentence(doctor: Path, program: str) -> None:
    doctor.write_text(program)
    app = EcellmApp()
    async with app.run_test(size=WIDE) as pilot:
        await until(pilot, lambda: "gave no answer" in text_of(app, "#doctor"))
        assert "no BLAS could be loaded" in text_of(app, "#doctor")
        doctor.write_text('print(\'{"device": "metal"}\')')
        await pilot.press("d")
        await until(pilot, lambda: "metal" in text_of(app, "#doctor"))


async def test_leaving_does_not_wait_for_the_doctor(doctor: Path) -> None:
    doctor.write_text("import time; time.sleep(3600)")
    app = EcellmApp()
    async with app.run_test(size=WIDE) as pilot:
        await pilot.pause()
        await pilot.press("ctrl+q")
        await until(pilot, lambda: not app.is_running)


def text_of_facts(app: EcellmApp) -> str:
    return str(app.screen.query_one("#memory").render())
