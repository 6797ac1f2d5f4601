"""Evaluate: real jobs on a tiny model, compared side by side, and their error rows."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from textual.pilot import Pilot
from textual.widgets import DataTable, Input

from ecellm_mlx import jobs
from ecellm_mlx.evaluation.settings import EvaluationSettings
from ecellm_mlx.jobs import State
from tui import evaluations, places
from tui.app import EcellmApp
from tui.dialog import CommandDialog
from tui.screens.evaluate import EvaluateScreen
from tui.screens.miss import MissDialog
from tui.widgets.choice import Choice
from tui.widgets.command_line import CommandLine

from .conftest import notices, screen_text, text_of, until

WIDE = (140, 44)


async def open_evaluate(app: EcellmApp, pilot: Pilot[None], **values: str) -> EvaluateScreen:
    await pilot.press(places.find("evaluate").key)
    await until(pilot, lambda: isinstance(app.screen, EvaluateScreen))
    screen = app.screen
    assert isinstance(screen, EvaluateScreen)
    screen.query_one("#limit", Input).value = ""
    for name, value in values.items():
        screen.query_one(f"#{name}", Choice).choose(value)
    await pilot.pause()
    return screen


@pytest.mark.proof
async def test_base_and_adapter_are_compared(
    tiny: Path, trained: Path, dataset: Path, home: Path, tmp_path: Path
) -> None:
    app = EcellmApp()
    data = str(dataset / "test.jsonl")
    async with app.run_test(size=WIDE) as pilot:
        screen = await open_evaluate(
            app, pilot, model=str(tiny), adapter=str(trained), data=data
        )
        screen.query_one("#tasks", Input).value = "PM,SA"
        await until(pilot, lambda: "--task SA" in screen.query_one(CommandLine).command)
        assert f"--adapter {trained}" in screen.query_one(CommandLine).command
        await pilot.press("ctrl+e")
        await until(pilot, lambda: "nothing to export" in notices(app))
        await pilot.press("ctrl+r")
        await until(pilot, lambda: len(screen.lines) == 2, "both evaluations")
        await until(pilot, lambda: all(screen.runs), "the adapter's evaluation")
        await until(pilot, lambda: not screen._evaluating)
        assert [line.n for line in screen.lines] == [3, 3]
        await until(pilot, lambda: 1 in screen._differences, "the intervals")
        text = screen_text(pilot)
        assert "95%" in text
        assert "0/0" in text
        assert {job.job().kind for job in jobs.recent()} == {"eval"}

        # What is there already is not computed again.
        await pilot.press("ctrl+r")
        await until(pilot, lambda: not screen._evaluating)
        assert len(jobs.recent()) == 2

        screen.query_one("#scores", DataTable).focus()
        await pilot.press("ctrl+t")
        await until(
            pilot, lambda: "strict" in str(screen.query_one("#scores-pane").border_title)
        )
        await pilot.press("end", "enter")
        await until(pilot, lambda: screen._misses, "rows that were answered otherwise")
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(app.screen, MissDialog))
        assert "expected" in screen_text(pilot)
        assert "### Instruction" in screen_text(pilot)
        await pilot.press("escape", "ctrl+e")
        await until(pilot, lambda: isinstance(app.screen, CommandDialog))
        app.screen.query_one(Input).value = str(tmp_path / "report")
        await pilot.press("ctrl+r")
        await until(pilot, lambda: "✓ done" in text_of(app, "#activity-line"), "the report")
        assert "tiny" in (tmp_path / "report" / "report.md").read_text()

        # A second adapter gets columns of its own; only it is computed.
        second = shutil.copytree(trained, tmp_path / "second")
        screen.query_one("#second", Choice).choose(str(second))
        await until(pilot, lambda: screen.runs[:2] and screen.runs[2:] == [None])
        await pilot.press("ctrl+r")
        await until(pilot, lambda: len(screen.runs) == 3 and all(screen.runs))
        await until(pilot, lambda: {1, 2} <= set(screen._differences), "both intervals")
        assert len(jobs.recent()) == 3
        titles = [str(c.label) for c in screen.query_one("#scores", DataTable).columns.values()]
        assert titles[4:] == ["Base", "Adapter", "Δ", "95%", "Second", "Δ", "95%", "#invalid"]
        # The same weights give the same answers.
        assert all(line.values[1] == line.values[2] for line in screen.lines)
        # A job writes that it has finished before its process ends.
        await until(pilot, lambda: not [c for c in app.children_started if c.poll() is None])


async def test_what_is_wrong_is_said_in_place(tiny: Path, tmp_path: Path) -> None:
    app = EcellmApp()
    async with app.run_test(size=(80, 24)) as pilot:
        screen = await open_evaluate(app, pilot, model=str(tiny), data=str(tmp_path / "no"))
        screen.query_one("#tasks", Input).value = "PM,XX"
        await until(pilot, lambda: "no task 'XX'" in text_of(app, "#eval-problem"))
        screen.query_one("#tasks", Input).value = ""
        await pilot.press("ctrl+r")
        await until(pilot, lambda: str(tmp_path / "no") in text_of(app, "#eval-problem"))
        assert not screen._evaluating


async def test_a_job_that_dies_ends_the_queue(
    tiny: Path, dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = []
    create = evaluations.create

    def dies(order: EvaluationSettings) -> jobs.RunDirectory:
        run = create(order)
        started.append(run)
        run.write_status(jobs.Status(state=State.FAILED, message="killed [9]."))
        return run

    monkeypatch.setattr(evaluations, "create", dies)
    monkeypatch.setattr(jobs, "start", lambda run: None)
    app = EcellmApp()
    async with app.run_test(size=WIDE) as pilot:
        data = str(dataset / "test.jsonl")
        screen = await open_evaluate(app, pilot, model=str(tiny), data=data, adapter="")
        await pilot.press("ctrl+r")
        await until(pilot, lambda: "killed [9]" in text_of(app, "#eval-problem"))
        assert not screen._evaluating
        assert len(started) == 1
