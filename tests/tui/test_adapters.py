"""Adapters: what is listed, and conversions by the real command with their proof."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from textual.pilot import Pilot
from textual.widgets import DataTable, Input

from tui import places
from tui.app import EcellmApp
from tui.dialog import CommandDialog
from tui.screens.adapters import AdaptersScreen
from tui.screens.playground import PlaygroundScreen
from tui.widgets.choice import Choice
from tui.widgets.command_line import CommandLine
from tui.widgets.event_log import EventLog

from .conftest import screen_text, text_of, until

WIDE = (120, 40)


async def open_adapters(app: EcellmApp, pilot: Pilot[None]) -> AdaptersScreen:
    await pilot.press(places.find("adapters").key)
    await until(pilot, lambda: isinstance(app.screen, AdaptersScreen))
    assert isinstance(app.screen, AdaptersScreen)
    return app.screen


async def run_dialog(app: EcellmApp, pilot: Pilot[None], key: str, **values: str) -> str:
    """Fill in the dialog that ``key`` opens; returns the command that was run."""
    await pilot.press(key)
    await until(pilot, lambda: isinstance(app.screen, CommandDialog))
    for name, value in values.items():
        app.screen.query_one(f"#field-{name} Input", Input).value = value
    await pilot.pause()
    command = app.screen.query_one(CommandLine).command
    await pilot.press("ctrl+r")
    await until(pilot, lambda: text_of(app, "#activity-line")[0] in "✓✗", "the command")
    return command


async def test_without_adapters_it_says_where_they_come_from() -> None:
    app = EcellmApp()
    async with app.run_test(size=(80, 24)) as pilot:
        await open_adapters(app, pilot)
        assert "Train one (F5)" in screen_text(pilot)
        for key in ("p", "v", "f", "e", "u", "g"):
            await pilot.press(key)
        assert isinstance(app.screen, AdaptersScreen)


@pytest.mark.proof
@pytest.mark.usefixtures("torch_in_children")
async def test_an_adapter_goes_to_peft_and_back_and_is_proven(
    trained: Path, home: Path, tmp_path: Path, tiny: Path
) -> None:
    runs = home / "runs"
    shutil.copytree(trained, runs / trained.name)
    peft = tmp_path / "peft [1]"
    app = EcellmApp()
    async with app.run_test(size=WIDE) as pilot:
        screen = await open_adapters(app, pilot)
        table = screen.query_one(DataTable)
        await until(pilot, lambda: table.row_count == 1)
        assert table.has_focus
        await pilot.press("enter")
        await until(pilot, lambda: "rank" in text_of(app, "#details"), "the facts")
        command = await run_dialog(app, pilot, "p", out=str(peft), base=str(tiny))
        assert command.startswith(f"ecellm adapters to-peft {runs / trained.name} ")
        assert "✓ done" in text_of(app, "#activity-line"), screen_text(pilot)
        assert (peft / "adapter_config.json").is_file()
        command = await run_dialog(app, pilot, "v", peft=str(peft), base=str(tiny))
        assert command.endswith(f"--base {tiny}")
        assert "✓ done" in text_of(app, "#activity-line"), screen_text(pilot)
        await until(pilot, lambda: "max_abs_error" in screen_text(pilot))
        said = [line.text for line in screen.query_one("#activity EventLog", EventLog).lines]
        logits = next((line for line in said if "logits" in line), f"not said in {said}")
        assert "max_abs_error" in logits, logits
        await run_dialog(app, pilot, "i", peft=str(peft), base=str(tiny))
        assert "✓ done" in text_of(app, "#activity-line"), screen_text(pilot)
        await until(pilot, lambda: table.row_count == 2, "the imported adapter")
        assert (home / "adapters" / "imported" / "adapters.safetensors").is_file()

        table.move_cursor(row=1)
        await pilot.press("g")
        await until(pilot, lambda: isinstance(app.screen, PlaygroundScreen))
        await until(
            pilot,
            lambda: app.screen.query_one("#adapter", Choice).value == str(runs / trained.name),
        )


@pytest.mark.proof
async def test_an_adapter_is_fused_and_exported(
    trained: Path, home: Path, tmp_path: Path, tiny: Path
) -> None:
    shutil.copytree(trained, home / "runs" / trained.name)
    app = EcellmApp()
    async with app.run_test(size=WIDE) as pilot:
        screen = await open_adapters(app, pilot)
        await until(pilot, lambda: screen.entries)
        for key, name, weights in (
            ("f", "fused", "model.safetensors"),
            ("e", "out-gguf", "*.gguf"),
        ):
            out = tmp_path / name
            command = await run_dialog(app, pilot, key, out=str(out), base=str(tiny))
            assert str(out) in command
            assert "✓ done" in text_of(app, "#activity-line"), screen_text(pilot)
            assert list(out.glob(weights)), screen_text(pilot)
        # The other format of the same dialog.
        await pilot.press("e")
        await until(pilot, lambda: isinstance(app.screen, CommandDialog))
        await pilot.press("space")
        assert app.screen.query_one(CommandLine).command.startswith("ecellm export hf ")


async def test_what_cannot_be_converted_is_said(home: Path, tmp_path: Path) -> None:
    app = EcellmApp()
    async with app.run_test(size=(80, 24)) as pilot:
        await open_adapters(app, pilot)
        await run_dialog(app, pilot, "i", peft=str(tmp_path), base=str(tmp_path / "no"))
        assert "✗ failed" in text_of(app, "#activity-line")
        # The path is longer than a line, wherever it is broken.
        shown = "".join(screen_text(pilot).replace("│", "").split())
        assert str(tmp_path / "no") in shown
