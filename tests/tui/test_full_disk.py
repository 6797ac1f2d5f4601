"""A full disk: wherever the app writes, it says so in one sentence and goes on."""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path
from typing import Any

import pytest
from textual.widgets import Input, TextArea

from tui import places
from tui.app import EcellmApp
from tui.dialog import CommandDialog
from tui.screens.models import ModelsScreen
from tui.screens.playground import PlaygroundScreen
from tui.screens.train import TrainScreen

from .conftest import notices, text_of, until

FULL = os.strerror(errno.ENOSPC)


def full(*arguments: Any, **options: Any) -> Any:
    """In the place of what makes a file."""
    raise OSError(errno.ENOSPC, FULL)


@pytest.mark.proof
async def test_every_place_says_that_the_disk_is_full(
    model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = EcellmApp()
    async with app.run_test(size=(120, 40)) as pilot:
        await pilot.press(places.find("train").key)
        await until(pilot, lambda: isinstance(app.screen, TrainScreen))
        await until(pilot, lambda: app.screen.order.model == model and app.screen.order.data)
        with monkeypatch.context() as patch:
            for name in ("mkstemp", "TemporaryFile"):
                patch.setattr(tempfile, name, full)

            # A job is not started.
            await pilot.press("ctrl+r")
            await until(pilot, lambda: "the disk is full" in text_of(app, "#refusal"))
            # A command is not, either.
            await pilot.press(places.find("models").key)
            await until(
                pilot, lambda: isinstance(app.screen, ModelsScreen) and app.screen.entries
            )
            await pilot.press("i")
            await until(pilot, lambda: isinstance(app.screen, CommandDialog))
            app.screen.query_one(Input).value = "model.gguf"
            await pilot.press("ctrl+r")
            await until(pilot, lambda: "✗ failed" in text_of(app, "#activity-line"))
            # Nor is a model.
            await pilot.press(places.find("playground").key)
            await until(pilot, lambda: isinstance(app.screen, PlaygroundScreen))
            await until(pilot, lambda: app.screen.query_one("#free-prompt", TextArea).has_focus)
            await pilot.press("ctrl+r")
            await until(pilot, lambda: FULL in text_of(app, "#playground-problem"))
            # What is remembered is not.
            app.theme = "nord"
            await until(pilot, lambda: "the disk is full" in notices(app))
        # Once there is room again, everything goes on.
        assert app.is_running
        app.theme = "textual-light"
        await until(pilot, (Path(os.environ["ECELLM_HOME"]) / "config" / "tui.json").exists)
