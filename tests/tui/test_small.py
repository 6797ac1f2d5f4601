"""At 40×10, the smallest size: every place works, and all that takes keys can be seen."""

from __future__ import annotations

import pytest
from textual.screen import Screen

from tui import places
from tui.app import EcellmApp
from tui.dialog import CommandDialog
from tui.messages import RunChosen
from tui.places import PLACES
from tui.screens.help import HelpScreen
from tui.screens.jump import JumpScreen
from tui.screens.run import RunScreen

from .conftest import screen_text, step, until, written

SIZE = (40, 10)


@pytest.mark.proof
async def test_every_place_can_be_used_at_40_by_10(model: str) -> None:
    run = written(*(step(n) for n in range(1, 30)))
    app = EcellmApp()
    async with app.run_test(size=SIZE) as pilot:
        for place in PLACES:
            await pilot.press(place.key)
            await until(pilot, lambda mode=place.mode: app.current_mode == mode)
            if place.mode == "catalog":
                # Its form grows once the table is read.
                await until(pilot, lambda: len(app.screen.query("#mapping Choice")))
            await pilot.pause()
            assert f"{place.key.upper()} {place.short}" in screen_text(pilot)
            # The first fields, and the last from the other end; Train has dozens between.
            for key in ["tab"] * 4 + ["shift+tab"] * 7 if app.screen.focus_chain else ():
                await pilot.press(key)
                widget = app.screen.focused
                assert widget is not None
                visible = app.screen.find_widget(widget).visible_region
                assert visible.height, f"{widget} of {place.title} is out of sight"
        await pilot.press(places.find("models").key)
        for key, kind in (("f1", HelpScreen), ("ctrl+o", JumpScreen), ("i", CommandDialog)):
            await pilot.press(key)
            await until(pilot, lambda kind=kind: isinstance(app.screen, kind))
            await pilot.press("escape")
            await until(pilot, lambda kind=kind: not isinstance(app.screen, kind))
        app.post_message(RunChosen(run.path))
        await until(pilot, lambda: isinstance(app.screen, RunScreen) and app.screen.view.step)
        await pilot.resize_terminal(120, 40)
        await pilot.resize_terminal(*SIZE)
        await pilot.pause()
        assert isinstance(app.screen, Screen)
        assert "finished" in screen_text(pilot)
