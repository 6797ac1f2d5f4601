"""Leaving: no job is harmed unless asked, and what runs is found again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from textual.widgets import DataTable

from ecellm_mlx.jobs import RunDirectory, State
from tui.app import EcellmApp
from tui.screens.quit import QuitDialog
from tui.screens.run import RunScreen

from .conftest import job, screen_text, until

Start = Callable[[RunDirectory], Any]
SIZE = (80, 24)


async def test_without_jobs_it_leaves_at_once() -> None:
    app = EcellmApp()
    async with app.run_test(size=SIZE) as pilot:
        await pilot.press("ctrl+q")
        await until(pilot, lambda: not app.is_running)


async def test_a_kept_job_goes_on_and_is_found_again(start: Start) -> None:
    run = job(steps=2000, seconds=0.02)
    child = start(run)
    app = EcellmApp()
    async with app.run_test(size=SIZE) as pilot:
        await until(pilot, lambda: run.status().state is State.RUNNING)
        await pilot.press("ctrl+q")
        await until(pilot, lambda: isinstance(app.screen, QuitDialog))
        await pilot.pause()
        assert run.path.name in screen_text(pilot)
        await pilot.press("escape")
        await until(pilot, lambda: not isinstance(app.screen, QuitDialog))
        await pilot.press("ctrl+q")
        await until(pilot, lambda: isinstance(app.screen, QuitDialog))
        await pilot.press("ctrl+q", "k")
        await until(pilot, lambda: not app.is_running)
    assert child.poll() is None
    left_at = run.status().step

    again = EcellmApp()
    async with again.run_test(size=SIZE) as pilot:
        await until(pilot, lambda: again.screen.query_one(DataTable).row_count == 1)
        await pilot.press("enter")
        await until(
            pilot,
            lambda: isinstance(again.screen, RunScreen) and again.screen.view.step > left_at,
        )
        # The whole story so far, not only what came after.
        assert again.screen.view.train.steps[0] == 1
        assert again.screen.view.state is State.RUNNING

        await pilot.press("ctrl+q")
        await until(pilot, lambda: isinstance(again.screen, QuitDialog))
        await pilot.click("#stop")
        await until(pilot, lambda: not again.is_running)
    assert child.wait(timeout=120) == 0
    assert run.status().state is State.STOPPED
