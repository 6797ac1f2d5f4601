"""Data: counts, rows, the prompt with its tokens, findings, and the commands on a file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from textual.pilot import Pilot
from textual.widgets import DataTable, Input

from ecellm_mlx import sample
from ecellm_mlx.tasks.registry import TASKS, Task
from tui import places, task_form
from tui.app import EcellmApp
from tui.dialog import CommandDialog
from tui.screens.data import DataScreen
from tui.screens.import_rows import ImportDialog, wanted
from tui.screens.train import TrainScreen
from tui.widgets.choice import Choice
from tui.widgets.command_line import CommandLine

from .conftest import screen_text, text_of, until

WIDE = (120, 40)


async def open_data(app: EcellmApp, pilot: Pilot[None], file: Path) -> DataScreen:
    await pilot.press(places.find("data").key)
    await until(pilot, lambda: isinstance(app.screen, DataScreen))
    screen = app.screen
    assert isinstance(screen, DataScreen)
    screen.query_one("#file", Choice).choose(str(file))
    await until(pilot, lambda: screen.content.path == file)
    return screen


def title(app: EcellmApp, pane: str) -> str:
    return str(app.screen.query_one(pane).border_title)


async def test_rows_are_counted_filtered_and_shown(smollm2: Path) -> None:
    app = EcellmApp()
    async with app.run_test(size=WIDE) as pilot:
        screen = await open_data(app, pilot, sample.folder() / "val.jsonl")
        counts, rows = (
            screen.query_one("#counts", DataTable),
            screen.query_one("#rows", DataTable),
        )
        assert "nothing to complain about" in text_of(app, "#findings")
        await until(pilot, lambda: rows.row_count == 96)
        screen.query_one("#tokens", Choice).choose(str(smollm2))
        await until(pilot, lambda: "tokens" in title(app, "#prompt-pane"))
        assert "### Instruction" in text_of(app, "#prompt")
        counts.focus()
        await pilot.press("down")
        await until(pilot, lambda: rows.row_count < 96)
        await until(
            pilot, lambda: title(app, "#rows-pane").startswith(f"Rows, {rows.row_count}")
        )
        first = title(app, "#prompt-pane")
        # A cutoff in the middle of the answer takes supervised tokens away.
        screen.query_one("#cutoff", Input).value = "40"
        await until(pilot, lambda: "0 supervised, cut" in title(app, "#prompt-pane"))
        assert "is cut off" in text_of(app, "#prompt")
        assert title(app, "#prompt-pane") != first
        screen.query_one("#cutoff", Input).value = ""
        await pilot.pause()
        assert "data check" in screen.query_one(CommandLine).command


async def test_what_is_wrong_is_listed_with_its_line(tmp_path: Path) -> None:
    file = tmp_path / "train.jsonl"
    lines = (sample.folder() / "val.jsonl").read_text().splitlines()[:3]
    lines[1] = json.dumps({"instruction": "x", "task": "Sentiment_Analysis [x]"})
    file.write_text("\n".join(lines) + "\n")
    app = EcellmApp()
    async with app.run_test(size=(80, 24)) as pilot:
        await open_data(app, pilot, file)
        assert "✗ line 2" in text_of(app, "#findings")
        await open_data(app, pilot, tmp_path / "none.jsonl")
        await until(pilot, lambda: "none.jsonl" in text_of(app, "#findings"))
        await pilot.press("t")


async def test_a_folder_of_rows_leads_to_a_run(tmp_path: Path, dataset: Path) -> None:
    app = EcellmApp()
    async with app.run_test(size=WIDE) as pilot:
        await open_data(app, pilot, dataset / "train.jsonl")
        app.screen.query_one("#counts").focus()
        await pilot.press("t")
        await until(pilot, lambda: isinstance(app.screen, TrainScreen))
        await until(pilot, lambda: app.screen.query_one("#data", Choice).value == str(dataset))


async def test_a_category_is_held_out_by_a_command(dataset: Path) -> None:
    app = EcellmApp()
    async with app.run_test(size=WIDE) as pilot:
        await open_data(app, pilot, dataset / "train.jsonl")
        app.screen.query_one("#counts").focus()
        await pilot.press("h")
        await until(pilot, lambda: isinstance(app.screen, CommandDialog))
        await pilot.press("tab", *"Toys", "tab", "tab", *"out")
        command = app.screen.query_one(CommandLine).command
        path = dataset / "train.jsonl"
        assert (
            command
            == f"ecellm data split {path} --holdout-category Toys --by category --out out"
        )
        await pilot.press("escape")


@pytest.mark.parametrize("task", list(TASKS.values()), ids=lambda task: task.short)
def test_every_task_can_be_imported_and_asked_by_a_form(task: Task) -> None:
    columns = dict(wanted(task.short))
    assert set(columns) >= {*task.asked, "output", "category", "id"}
    assert all(columns[name] for name in task.required)
    assert [name for name, _ in task_form.fields(task)] == list(task.asked)


async def test_the_import_asks_for_the_columns_of_a_table(tmp_path: Path, home: Path) -> None:
    table = tmp_path / "reviews.csv"
    texts = "".join(f"Fine [{n}],A: very positive\n" for n in range(12))
    table.write_text("text,stars\n" + texts)
    app = EcellmApp()
    async with app.run_test(size=WIDE) as pilot:
        await pilot.press(places.find("data").key)
        await until(pilot, lambda: isinstance(app.screen, DataScreen))
        app.screen.query_one("#counts").focus()
        await pilot.press("i")
        await until(pilot, lambda: isinstance(app.screen, ImportDialog))
        dialog = app.screen
        dialog.query_one("#table", Input).value = str(table)
        await pilot.press("enter")
        await until(pilot, lambda: len(dialog.query("#mapping Choice")) == 5, "the columns")
        by_name = {c.name: c for c in dialog.query("#mapping Choice").results(Choice)}
        assert by_name["review"].value == "text"
        await pilot.press("ctrl+r")
        assert "which column is output" in text_of(app, "#dialog-problem")
        by_name["output"].choose("stars")
        await until(
            pilot, lambda: "--map output=stars" in dialog.query_one(CommandLine).command
        )
        assert "review" in screen_text(pilot)
        await pilot.press("ctrl+r")
        await until(pilot, lambda: isinstance(app.screen, DataScreen))
        await until(pilot, lambda: text_of(app, "#activity-line")[0] in "✓✗", "the import")
        assert "✓ done" in text_of(app, "#activity-line"), screen_text(pilot)
        made = list((home / "datasets" / "reviews").glob("*.jsonl"))
        assert any("very positive" in file.read_text() for file in made)
