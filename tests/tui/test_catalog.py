"""Catalog: from a table to reviewed answers, with a real model."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from textual.pilot import Pilot
from textual.widgets import DataTable, Input, Select

from ecellm_mlx.data import rows
from ecellm_mlx.jobs import State
from tui import places
from tui.app import EcellmApp
from tui.screens.catalog import CatalogScreen
from tui.screens.review import CorrectDialog, ReviewScreen
from tui.screens.run import RunScreen
from tui.screens.train import TrainScreen
from tui.widgets.choice import Choice
from tui.widgets.command_line import CommandLine

from .conftest import notices, screen_text, text_of, until

WIDE = (140, 44)


def write_table(path: Path) -> Path:
    with path.open("w", newline="", encoding="utf-8") as stream:
        out = csv.writer(stream)
        out.writerows([["sku", "text"], ["1", "Lovely [!]."], ["2", "Broke\nat once."]])
    return path


async def open_catalog(
    app: EcellmApp, pilot: Pilot[None], table: Path, model: Path | str
) -> CatalogScreen:
    await pilot.press(places.find("catalog").key)
    await until(pilot, lambda: isinstance(app.screen, CatalogScreen))
    screen = app.screen
    assert isinstance(screen, CatalogScreen)
    screen.query_one("#task", Select).value = "Sentiment_Analysis"
    screen.query_one("#table", Choice).choose(str(table))
    screen.query_one("#model", Choice).choose(str(model))
    await pilot.pause()
    return screen


@pytest.mark.proof
async def test_a_table_is_mapped_previewed_run_and_reviewed(
    tiny: Path, home: Path, tmp_path: Path
) -> None:
    table = write_table(tmp_path / "reviews.csv")
    app = EcellmApp()
    async with app.run_test(size=WIDE) as pilot:
        screen = await open_catalog(app, pilot, table, tiny)
        await until(pilot, lambda: "review=text" in screen.order.mapping, "the guess")
        command = screen.query_one(CommandLine)
        assert "--map review=text" in command.command
        preview = screen.query_one("#preview", DataTable)
        await until(pilot, lambda: "Lovely [!]." in text_of(app, "#prompt"), "the prompt")
        await pilot.press("ctrl+e")
        await until(
            pilot,
            lambda: (
                "very" in str(preview.get_row_at(0)[1]) or ": " in str(preview.get_row_at(0)[1])
            ),
            "a live answer",
        )
        screen.query_one("#review-below", Input).value = "1.0"
        out = tmp_path / "reviews.sa.csv"
        await until(pilot, lambda: str(out) in command.command)
        await pilot.press("ctrl+r")
        await until(pilot, lambda: isinstance(app.screen, RunScreen))
        await until(pilot, lambda: app.screen.view.state is State.FINISHED, "the run")
        await until(pilot, lambda: "0.9 – 1.0" in text_of(app, "#histogram"))
        assert not app.screen.query_one("#curves").display

        await pilot.press("v")
        await until(pilot, lambda: isinstance(app.screen, ReviewScreen) and app.screen.items)
        review = app.screen
        assert len(review.items) == 2
        await pilot.press("s")
        await until(pilot, lambda: "Nothing is decided" in notices(app))
        await pilot.press("a")
        await until(pilot, lambda: "1 of 2 decided" in screen_text(pilot))
        await pilot.press("c")
        await until(pilot, lambda: isinstance(app.screen, CorrectDialog))
        app.screen.query_one(Input).value = "splendid"
        await pilot.press("enter", "s")
        await until(pilot, lambda: "none of the options" in notices(app), "the refusal")
        await pilot.press("c")
        await until(pilot, lambda: isinstance(app.screen, CorrectDialog))
        app.screen.query_one(Input).value = "E: very negative"
        await pilot.press("enter")
        await until(pilot, lambda: "✎" in screen_text(pilot) or "2 of 2" in screen_text(pilot))
        saved = tmp_path / "reviews.sa.review.csv"
        await until(pilot, lambda: "E: very negative" in saved.read_text(), "the decision")
        await pilot.press("s")
        await until(pilot, lambda: "2 rows decided" in notices(app), "the decisions")
        written = rows.load(home / "datasets" / "reviews.sa-reviewed" / "train.jsonl")
        assert {row.output for row in written} >= {"E: very negative"}
        assert "E: very negative" in out.read_text(encoding="utf-8")

        await pilot.press(places.find("train").key)
        await until(pilot, lambda: isinstance(app.screen, TrainScreen))
        await until(
            pilot,
            lambda: (
                "reviews.sa-reviewed" in str(app.screen.query_one("#data", Choice)._options)
            ),
        )


async def test_the_preview_says_what_it_waits_for(tiny: Path, tmp_path: Path) -> None:
    table = write_table(tmp_path / "reviews.csv")
    app = EcellmApp()
    async with app.run_test(size=WIDE) as pilot:
        await pilot.press(places.find("catalog").key)
        await until(pilot, lambda: isinstance(app.screen, CatalogScreen))
        screen = app.screen

        def title() -> str:
            return str(screen.query_one("#preview-pane").border_title)

        screen.query_one("#task", Select).value = "Sentiment_Analysis"
        screen.query_one("#table", Choice).choose("")
        await until(pilot, lambda: title() == "Preview: choose a table first")
        screen.query_one("#table", Choice).choose(str(table))
        await until(pilot, lambda: title() == "Preview: choose a model first")
        await pilot.press("ctrl+e")
        await until(pilot, lambda: "choose a model first" in notices(app))
        screen.query_one("#model", Choice).choose(str(tiny))
        await until(pilot, lambda: title() == "Preview, not asked yet", "the first rows")


async def test_what_is_wrong_with_a_table_is_said(model: str, tmp_path: Path) -> None:
    app = EcellmApp()
    async with app.run_test(size=(80, 24)) as pilot:
        screen = await open_catalog(app, pilot, tmp_path / "no [x].csv", model)
        await until(pilot, lambda: "no [x].csv" in text_of(app, "#catalog-problem"))
        await pilot.press("ctrl+l")
        await until(pilot, lambda: "No catalog run" in notices(app))
        screen.query_one("#review-below", Input).value = "much"
        await pilot.press("ctrl+r")
        await until(pilot, lambda: "no confidence" in text_of(app, "#catalog-problem"))
        assert app.screen is screen


async def test_a_run_without_a_review_says_so(tmp_path: Path, home: Path) -> None:
    from ecellm_mlx import jobs

    run = jobs.create("catalog", {"out": str(tmp_path / "out.csv")})
    app = EcellmApp()
    async with app.run_test(size=(80, 24)) as pilot:
        await pilot.pause()
        app.push_screen(ReviewScreen(run.path))
        await until(pilot, lambda: app.screen.query("#review-problem"))
        await until(pilot, lambda: "does not exist" in text_of(app, "#review-problem"))
        for key in "acus":
            await pilot.press(key)
        await pilot.press("escape")
        await until(pilot, lambda: not isinstance(app.screen, ReviewScreen))
