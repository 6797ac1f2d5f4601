"""Playground: a real model in a child answers, and its death is survived."""

from __future__ import annotations

import json
import os
import shlex
import signal
from pathlib import Path

import psutil
import pytest
from textual.pilot import Pilot
from textual.widgets import Input, Select, TextArea

from ecellm_mlx.data.prompts import input_text
from ecellm_mlx.errors import EcellmError
from ecellm_mlx.tasks.registry import TASKS, find
from tui import places, task_form
from tui.app import EcellmApp
from tui.screens import playground
from tui.screens.playground import PlaygroundScreen
from tui.widgets.answer_pane import AnswerPane, bar
from tui.widgets.choice import Choice
from tui.widgets.command_line import CommandLine

from .conftest import notices, screen_text, soon, text_of, until

WIDE = (120, 40)


async def open_playground(app: EcellmApp, pilot: Pilot[None], model: Path) -> PlaygroundScreen:
    await pilot.press(places.find("playground").key)
    await until(pilot, lambda: isinstance(app.screen, PlaygroundScreen))
    assert isinstance(app.screen, PlaygroundScreen)
    app.screen.query_one("#model", Choice).choose(str(model))
    await pilot.pause()
    return app.screen


async def test_both_sides_answer_and_a_killed_model_is_started_again(
    tiny: Path, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(playground, "MAX_TOKENS", 4000)
    app = EcellmApp()
    async with app.run_test(size=WIDE) as pilot:
        screen = await open_playground(app, pilot, tiny)
        base = screen.query_one("#answer-base", AnswerPane)
        adapter = screen.query_one("#answer-adapter", AnswerPane)
        screen.query_one("#adapter", Choice).choose(str(trained))
        screen.query_one("#task", Select).value = "Product_Substitue_Identification"
        await until(pilot, lambda: "query" in screen.values)
        # A question without its fields is refused in place.
        await pilot.press("ctrl+r")
        await until(pilot, lambda: "lacks query" in text_of(app, "#playground-problem"))
        await pilot.press("ctrl+l")
        await until(pilot, lambda: screen.values.get("query"), "the sample row")
        words = shlex.split(screen.query_one(CommandLine).command)
        assert words[:2] == ["ecellm", "generate"]
        assert "query" in json.loads(words[-1])
        await pilot.press("ctrl+r")
        await until(pilot, lambda: base.text and adapter.text, "both answers")
        assert {base.text, adapter.text} <= {"yes", "no"}
        await pilot.pause()
        assert screen_text(pilot).count("%") == 4
        assert "expected" in screen_text(pilot)
        await pilot.press("ctrl+g")
        assert app.clipboard == adapter.text

        screen.query_one("#adapter", Choice).choose("")
        screen.query_one("#task", Select).value = task_form.FREE
        await until(pilot, lambda: not screen.values)
        screen.query_one("#free-prompt", TextArea).text = "A red kettle [1]"
        screen.action_ask()
        await soon(lambda: base.text and base.border_title == "Base: …", "a first piece")
        screen.action_stop()
        await soon(lambda: base.border_title == "Base", "the end")
        await pilot.pause()
        assert "ended by you" in text_of(app, "#answer-base .answer-facts")

        # As Metal does when it runs out of memory.
        assert screen._child
        os.kill(screen._child.pid, signal.SIGABRT)
        await until(pilot, lambda: "process ended" in text_of(app, "#playground-problem"))
        assert "out of memory" in text_of(app, "#playground-problem")
        screen.action_ask()
        await soon(lambda: base.text, "the answer of a new process")
        last = screen._child.pid
        screen.action_stop()
    await soon(lambda: not psutil.pid_exists(last), "the model to end with the app")


async def test_a_model_that_is_none_is_refused(tmp_path: Path) -> None:
    app = EcellmApp()
    async with app.run_test(size=(80, 24)) as pilot:
        screen = await open_playground(app, pilot, tmp_path)
        await pilot.press("ctrl+l")
        await until(pilot, lambda: "Choose a task" in notices(app))
        await pilot.press("ctrl+r")
        await until(pilot, lambda: "config.json" in text_of(app, "#playground-problem"))
        assert screen.query_one("#answer-base", AnswerPane).text == ""


async def test_lists_are_edited_line_by_line(tiny: Path) -> None:
    app = EcellmApp()
    async with app.run_test(size=WIDE) as pilot:
        screen = await open_playground(app, pilot, tiny)
        screen.query_one("#task", Select).value = "Sentiment_Analysis"
        await until(pilot, lambda: "options" in screen.values)
        screen.query_one("Input.task-field", Input).value = "Good."
        screen.query_one("TextArea.task-field", TextArea).text = "A: good\n\nbad\n"
        row = task_form.request_row(find("SA"), screen.values)
        assert row["input"] == "Good."
        assert json.loads(row["options"]) == ["A: good", "B: bad"]


@pytest.mark.parametrize("name", list(TASKS))
def test_a_form_says_what_its_row_said(name: str) -> None:
    found = task_form.example(TASKS[name])
    if found is None:
        # The sample has no rows of the two share-alike tasks and of SR; the form is
        # built from the declaration all the same.
        with pytest.raises(EcellmError):
            task_form.request_row(TASKS[name], {})
        return
    row, values = found
    again = task_form.request_row(TASKS[name], values)
    assert task_form.values_of(_row(again)) == values
    assert again["task"] == row.task
    if row.options:
        assert json.loads(again["options"]) == row.option_list


def test_a_value_that_is_missing_stays_missing() -> None:
    text = input_text(find("PM"), {"product 1.title": "a", "product 2.title": "b"})
    row = _row({"task": "Product_Matching", "input": text, "options": None})
    values = task_form.values_of(row)
    assert values["product 1.description"] == ""
    assert task_form.request_row(find("PM"), values)["input"] == text


def test_bars_are_as_long_as_their_share() -> None:
    assert bar(1, 4) == "████"
    assert bar(0, 4) == "    "
    assert bar(0.5, 4) == "██  "
    assert bar(0.53, 4) == "██▏ "


def _row(item: dict[str, str]) -> task_form.Row:
    return task_form.Row("x", "", item["input"], item["options"], "", item["task"], "", "")
