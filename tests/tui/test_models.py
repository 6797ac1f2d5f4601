"""Models: what is listed, and that a model can be installed and inspected from here."""

from __future__ import annotations

from pathlib import Path

import pytest
from textual.pilot import Pilot
from textual.widgets import DataTable

from tui import child, places
from tui.app import EcellmApp
from tui.dialog import CommandDialog
from tui.screens.models import ModelsScreen
from tui.screens.train import TrainScreen
from tui.widgets.choice import Choice
from tui.widgets.command_line import CommandLine

from .conftest import notices, screen_text, text_of, until

WIDE = (120, 40)


async def open_models(app: EcellmApp, pilot: Pilot[None]) -> ModelsScreen:
    await pilot.press(places.find("models").key)
    await until(pilot, lambda: isinstance(app.screen, ModelsScreen) and app.screen.entries)
    assert isinstance(app.screen, ModelsScreen)
    return app.screen


def command(app: EcellmApp) -> str:
    return app.screen.query_one(CommandLine).command


async def test_the_paper_s_models_are_offered_with_their_command(home: Path) -> None:
    app = EcellmApp()
    async with app.run_test(size=WIDE) as pilot:
        screen = await open_models(app, pilot)
        assert {"ecellm-s", "phi-2", "smollm2-135m"} <= set(screen.entries)
        await until(pilot, lambda: "ecellm models pull ecellm-s" in command(app))
        assert "CC BY 4.0" in screen_text(pilot)
        await pilot.press("ctrl+y")
        assert app.clipboard == "ecellm models pull ecellm-s"
        # Nothing to train with yet: it says so and stays.
        await pilot.press("enter")
        await until(pilot, lambda: "p installs it" in notices(app))
        assert app.screen is screen


@pytest.mark.proof
async def test_the_small_model_is_installed_by_the_real_command(home: Path) -> None:
    app = EcellmApp()
    async with app.run_test(size=WIDE) as pilot:
        screen = await open_models(app, pilot)
        table = screen.query_one(DataTable)
        table.move_cursor(row=list(screen.entries).index("smollm2-135m"))
        await until(pilot, lambda: "models import smollm2-135m" in command(app))
        await pilot.press("p")
        assert screen.running
        await pilot.press("p")
        await until(pilot, lambda: "Wait for" in notices(app))
        await until(pilot, lambda: screen.entries["smollm2-135m"].here, "the import")
        assert (home / "models" / "smollm2-135m" / "config.json").is_file()
        await until(pilot, lambda: "✓ done" in text_of(app, "#activity-line"))
        assert "ecellm models import smollm2-135m" in text_of(app, "#activity-line")
        assert screen.entries["smollm2-135m"].bits == 4
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(app.screen, TrainScreen))
        await until(
            pilot, lambda: app.screen.query_one("#model", Choice).value == "smollm2-135m"
        )


async def test_a_command_that_fails_says_why(home: Path) -> None:
    app = EcellmApp()
    async with app.run_test(size=WIDE) as pilot:
        screen = await open_models(app, pilot)
        await pilot.press("i")
        await until(pilot, lambda: isinstance(app.screen, CommandDialog))
        await pilot.press("ctrl+r")
        assert "Give File" in text_of(app, "#dialog-problem")
        await pilot.press(*"no[x].gguf")
        assert command(app) == "ecellm models import 'no[x].gguf'"
        await pilot.press("ctrl+r")
        await until(pilot, lambda: app.screen is screen and not screen.running)
        assert "✗ failed" in text_of(app, "#activity-line")
        assert "no[x].gguf" in screen_text(pilot)


async def test_a_command_can_be_ended(
    home: Path, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = "import time, sys; print('10% of it', file=sys.stderr, flush=True); time.sleep(60)"
    monkeypatch.setattr(child, "CLI", (child.CLI[0], "-S", "-c", slow))
    app = EcellmApp()
    async with app.run_test(size=(80, 24)) as pilot:
        screen = await open_models(app, pilot)
        await pilot.press("z")
        await until(pilot, lambda: isinstance(app.screen, CommandDialog))
        assert command(app) == "ecellm models quantize tiny --bits 4"
        await pilot.press("space")
        assert command(app) == "ecellm models quantize tiny --bits 8"
        await pilot.press("ctrl+r")
        await until(pilot, lambda: "10% of it" in screen_text(pilot))
        await pilot.press("ctrl+x")
        await until(pilot, lambda: not screen.running)
        assert "■ ended" in text_of(app, "#activity-line")


async def test_a_child_that_aborts_is_a_sentence(
    home: Path, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    abort = "import os, resource; resource.setrlimit(resource.RLIMIT_CORE, (0, 0)); os.abort()"
    monkeypatch.setattr(child, "CLI", (child.CLI[0], "-S", "-c", abort))
    app = EcellmApp()
    async with app.run_test(size=WIDE) as pilot:
        screen = await open_models(app, pilot)
        screen.run_command(["models", "show", "tiny"])
        await until(pilot, lambda: not screen.running)
        assert "signal 6" in text_of(app, "#activity-line")
