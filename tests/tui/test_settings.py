"""The theme is remembered; damaged settings are reported."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest
from textual.color import Color

from tui import places, settings
from tui.app import EcellmApp

from .conftest import notices, until


async def test_the_theme_is_remembered() -> None:
    app = EcellmApp()
    async with app.run_test() as pilot:
        app.theme = "nord"
        await until(pilot, settings.settings_file().exists)
    assert json.loads(settings.settings_file().read_text())["theme"] == "nord"
    again = EcellmApp()
    async with again.run_test() as pilot:
        await pilot.pause()
        assert again.theme == "nord"


async def test_a_theme_and_a_size_reach_the_places_that_are_not_shown() -> None:
    app = EcellmApp()
    async with app.run_test(size=(120, 36)) as pilot:
        await pilot.press(places.find("models").key)
        await pilot.press(places.find("home").key)
        app.theme = "textual-light"
        await pilot.resize_terminal(80, 16)
        await pilot.press(places.find("models").key)
        await pilot.pause()
        light = Color.parse(app.theme_variables["background"])
        assert app.screen.query_one("DataTable").styles.background == light
        assert app.screen.has_class("-narrow")
        assert app.screen.has_class("-short")


async def test_damaged_settings_are_reported(home: Path) -> None:
    settings.save(settings.Settings(theme="no such theme"))
    app = EcellmApp()
    async with app.run_test():
        assert app.theme == settings.DEFAULT_THEME
    settings.settings_file().write_text("{")
    again = EcellmApp()
    async with again.run_test() as pilot:
        await until(pilot, lambda: "settings cannot be read" in notices(again))


async def test_a_theme_that_cannot_be_saved_is_reported(home: Path) -> None:
    home.mkdir()
    (home / "config").write_text("a file stands here")
    app = EcellmApp()
    async with app.run_test() as pilot:
        app.theme = "nord"
        await until(pilot, lambda: "choose another path" in notices(app))


async def test_a_mac_clipboard_is_filled_by_its_own_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "pbcopy"
    program.write_text(f"#!/bin/sh\ncat > {tmp_path}/copied\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    app = EcellmApp()
    async with app.run_test() as pilot:
        app.copy_to_clipboard("ecellm train")
        await until(pilot, lambda: (tmp_path / "copied").exists())
        await app.workers.wait_for_complete()
    assert (tmp_path / "copied").read_text() == "ecellm train"
