"""The Train form: what it says, what it refuses, what it starts."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
from textual.pilot import Pilot
from textual.widgets import Button, Input, Select

from ecellm_mlx import sample
from ecellm_mlx.jobs import RunDirectory, State
from ecellm_mlx.training import recipe
from tui import places
from tui.app import EcellmApp
from tui.messages import PlanRead
from tui.order import TrainOrder
from tui.screens.run import RunScreen
from tui.screens.train import TrainScreen, plan_text
from tui.widgets.choice import OTHER, Choice
from tui.widgets.recipe_form import RecipeForm, SettingRow, as_text

from .conftest import screen_text, text_of, until

WIDE = (120, 40)


async def open_form(app: EcellmApp, pilot: Pilot[None]) -> TrainScreen:
    await pilot.press(places.find("train").key)
    await until(pilot, lambda: isinstance(app.screen, TrainScreen))
    await until(pilot, lambda: app.screen.query_one("#data", Choice).value)
    await until(pilot, lambda: all(worker.is_finished for worker in app.workers))
    assert isinstance(app.screen, TrainScreen)
    return app.screen


def row(screen: TrainScreen, key: str) -> SettingRow:
    return next(r for r in screen.query(SettingRow) if r.key == key)


def problem(screen: TrainScreen, field: str) -> str:
    return str(screen.query_one(f"#{field} .problem").render())


async def choose_other(screen: TrainScreen, field: str, text: str) -> None:
    choice = screen.query_one(f"#{field}", Choice)
    choice.query_one(Select).value = OTHER
    choice.query_one(Input).value = text


async def test_without_a_model_it_says_how_to_get_one(request: pytest.FixtureRequest) -> None:
    app = EcellmApp()
    async with app.run_test(size=WIDE) as pilot:
        screen = await open_form(app, pilot)
        await until(
            pilot, lambda: "ecellm models import smollm2-135m" in problem(screen, "model")
        )
        assert "--model MODEL" in text_of(app, "#command")
        await pilot.press("ctrl+r")
        await until(pilot, lambda: text_of(app, "#refusal"))
        assert app.screen is screen
        assert not screen.query_one("#start", Button).disabled
        # One that arrives meanwhile is taken.
        request.getfixturevalue("model")
        screen.read_options()
        await until(
            pilot, lambda: screen.order.model == "tiny" and not problem(screen, "model")
        )


async def test_the_form_shows_its_command(model: str) -> None:
    app = EcellmApp()
    async with app.run_test(size=WIDE) as pilot:
        screen = await open_form(app, pilot)
        row(screen, "rank").query_one(Input).focus()
        await pilot.press("8", *["down"] * 4, "space", "down", "left", "space")
        assert "rslora" in text_of(app, "#explanation")
        screen.query_one("#recipe Select", Select).value = "smollm2"
        await until(pilot, lambda: "smollm2" in text_of(app, "#command"))
        words = shlex.split(text_of(app, "#command"))
        assert words[:6] == [
            "ecellm",
            "train",
            "--model",
            "tiny",
            "--data",
            str(sample.folder()),
        ]
        assert words[6:] == ["--recipe", "smollm2", "--set", "rank=8", "--set", "dora=true"]
        # The recipe's values are shown, and what was changed by hand stays.
        assert row(screen, "rank").text == "8"
        assert row(screen, "batch_size").text == str(recipe.read("smollm2").batch_size)
        await pilot.press("ctrl+y")
        await until(pilot, lambda: app.clipboard == screen.order.command())
        await pilot.press("ctrl+l")
        await until(pilot, lambda: "--set" not in text_of(app, "#command"))
        assert row(screen, "rank").text == str(recipe.read("smollm2").rank)


async def test_wrong_settings_are_named_in_place(model: str, home: Path) -> None:
    app = EcellmApp()
    async with app.run_test(size=WIDE) as pilot:
        screen = await open_form(app, pilot)
        row(screen, "batch_size").query_one(Input).value = "6"
        row(screen, "rank").query_one(Input).value = "many"
        await until(pilot, lambda: "multiple" in text_of(app, "#recipe-problem"))
        assert "rank='many' is not a whole number" in text_of(app, "#recipe-problem")
        wrong = {r.key for r in screen.query(SettingRow) if r.has_class("-invalid")}
        assert wrong == {"rank", "batch_size", "micro_batch_size"}
        screen.query_one(RecipeForm).reset()
        await until(pilot, lambda: not text_of(app, "#recipe-problem"))
        # What only the start can find out is said there.
        home.joinpath("runs").write_text("a file stands here")
        await pilot.press("ctrl+r")
        await until(pilot, lambda: "another path" in text_of(app, "#refusal"))
        assert app.screen is screen
        assert not screen.query_one("#start", Button).disabled


async def test_wrong_paths_are_named_in_place(model: str, tmp_path: Path) -> None:
    broken = tmp_path / "home" / "models" / "broken"
    broken.mkdir()
    (broken / "config.json").write_text("{")
    app = EcellmApp()
    async with app.run_test(size=WIDE) as pilot:
        screen = await open_form(app, pilot)
        await choose_other(screen, "data", str(tmp_path / "nowhere [x]"))
        await choose_other(screen, "recipe", "missing.toml")
        screen.query_one("#model Select", Select).value = "broken"
        await until(pilot, lambda: all(problem(screen, f) for f in ("model", "data", "recipe")))
        assert "nowhere [x]" in problem(screen, "data")
        assert "missing.toml" in problem(screen, "recipe")
        assert "cannot be used" in problem(screen, "model")
        assert "nowhere [x]" in screen_text(pilot)


async def test_starting_shows_the_job_live(
    model: str, home: Path, start: Callable[[RunDirectory], object]
) -> None:
    app = EcellmApp()
    async with app.run_test(size=WIDE) as pilot:
        screen = await open_form(app, pilot)
        row(screen, "max_steps").query_one(Input).value = "7"
        # A second press while the first is being checked starts nothing.
        screen.action_start()
        screen.action_start()
        await until(pilot, lambda: isinstance(app.screen, RunScreen))
        run = app.screen.run
        assert run.path.parent == home / "runs"
        assert run.job().config["recipe"]["max_steps"] == 7
        await until(pilot, lambda: app.screen.view.state is State.FINISHED)
        assert len(app.screen.view.train.steps) == 7
        await pilot.pause()
        assert "812" in screen_text(pilot)
        assert f"{app.screen.view.train.last:.4g}" in screen_text(pilot)
        await until(pilot, lambda: not app.children_started, "the child to be reaped")
        assert len(list((home / "runs").iterdir())) == 1


async def test_a_run_is_planned_before_it_starts(smollm2: Path) -> None:
    app = EcellmApp()
    async with app.run_test(size=WIDE) as pilot:
        screen = await open_form(app, pilot)
        await choose_other(screen, "model", str(smollm2))
        screen.query_one("#recipe Select", Select).value = "smollm2"
        await until(pilot, lambda: "peak" in text_of(app, "#plan"), "the plan")
        assert "fits" in text_of(app, "#plan")
        assert "570 rows" in text_of(app, "#plan")
        row(screen, "batch_size").query_one(Input).value = "many"
        await until(pilot, lambda: not text_of(app, "#plan"))


def test_a_plan_that_does_not_fit_says_what_would() -> None:
    value = {
        "peak_gb": 41.8,
        "limit_gb": 23.5,
        "fits": False,
        "seconds": 7200,
        "rows": 570,
        "tokens": 1000,
        "tokens_per_second": 12.5,
        "suggestions": ["--set micro_batch_size=1"],
    }
    text = str(plan_text(PlanRead(value, "")))
    assert "✗ too large: peak 41.8 of 23.5 GiB" in text
    assert "2 h 00 min" in text
    assert "! try --set micro_batch_size=1" in text
    assert "no rows" in str(plan_text(PlanRead(None, "no rows.")))


def test_a_command_survives_a_shell() -> None:
    order = TrainOrder("tiny", "my rows/it's", "", ("targets=q_proj,v_proj",))
    words = shlex.split(order.command())
    assert words[:5] == ["ecellm", "train", "--model", "tiny", "--data"]
    assert words[5:] == ["my rows/it's", "--set", "targets=q_proj,v_proj"]


@pytest.mark.parametrize("name", ["", *recipe.names()])
def test_shown_values_mean_what_the_recipe_says(name: str) -> None:
    values = recipe.read(name or None).to_dict()
    overrides = [f"{key}={as_text(value)}" for key, value in values.items()]
    assert recipe.read(None, overrides).to_dict() == values
