"""Places are built before they are visited; and what of Textual's that relies on."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
from rich.text import Text
from textual.app import App, ComposeResult
from textual.events import ScreenResume
from textual.screen import Screen

from tui import places
from tui.app import EcellmApp
from tui.places import PLACES
from tui.screens.base import PlaceScreen
from tui.screens.train import TrainScreen
from tui.widgets.recipe_form import SettingRow
from tui.widgets.table import AT_ONCE, Table

from .conftest import soon, until


def built(app: EcellmApp) -> bool:
    """Whether nothing is left to build."""
    found = [worker for worker in app.workers if worker.group == "build"]
    return all(app.get_screen(place.mode).is_mounted for place in PLACES) and not found


async def test_a_first_visit_shows_a_screen_that_stands(model: str) -> None:
    app = EcellmApp(own_process=True)
    async with app.run_test(size=(120, 36)) as pilot:
        await soon(lambda: built(app), "all places")
        assert app.current_mode == "home"
        train = app.get_screen("train")
        assert isinstance(train, TrainScreen)
        # It is laid out, and has not looked for models: nobody has seen it.
        row = train.query(SettingRow).first()
        assert row.region.width > 20
        assert not train.looked
        assert not [worker for worker in app.workers if worker.node is train]

        await pilot.press(places.find("train").key)
        await until(pilot, lambda: train.looked)
        assert app.screen is train
        assert train.query(SettingRow).first() is row
        await until(pilot, lambda: "--model tiny" in train.order.command(), "the model")


async def test_a_place_is_built_at_once_when_somebody_goes_there() -> None:
    app = EcellmApp(own_process=True)
    async with app.run_test(size=(120, 36)) as pilot:
        # It has just begun: the last place is far away.
        await soon(lambda: app.get_screen("models").is_running, "the first place")
        await pilot.press(places.find("adapters").key)
        await until(pilot, lambda: isinstance(app.screen, PlaceScreen) and app.screen.looked)
        assert app.screen is app.get_screen("adapters")
        await soon(lambda: built(app), "all places")


async def test_leaving_waits_for_the_screen_that_is_being_built() -> None:
    app = EcellmApp(own_process=True)
    async with app.run_test(size=(120, 36)) as pilot:
        await soon(lambda: app.get_screen("train").is_running, "the form")
        assert not app.get_screen("train").is_mounted
        app.exit(message="left")
        assert app.is_running
        await soon(lambda: app._exit, "the end")
        assert app.get_screen("train").is_mounted
        await pilot.pause()
    assert app.return_code == 0


def test_textual_still_has_what_is_used_beside_its_public_api() -> None:
    # Where one of these fails, an upgrade of Textual wants changes in tui/quick.py.
    register = inspect.signature(App._register)
    assert list(register.parameters)[:3] == ["self", "parent", "widgets"], "QuickApp"
    layout = inspect.signature(Screen._refresh_layout)
    assert list(layout.parameters)[:2] == ["self", "size"], "QuickApp"
    screen: Screen[Any] = Screen()
    assert screen._layout_required is False, "QuickApp"
    assert screen.stack_updates == 0, "QuickApp"
    assert isinstance(screen._css_update_count, int), "QuickScreen"
    assert isinstance(App()._css_update_count, int), "QuickScreen"
    assert ScreenResume().refresh_styles is True, "QuickScreen"
    assert "refresh_styles" in inspect.getsource(Screen._on_screen_resume)
    assert "delay_update" in inspect.getsource(App.switch_mode), "QuickApp.delay_update"


class TableApp(App[None]):
    """A table, and nothing else."""

    def compose(self) -> ComposeResult:
        """The table."""
        yield Table()


@pytest.mark.parametrize("rows", [0, 1, AT_ONCE, 3 * AT_ONCE + 1])
async def test_a_long_table_fills_in_pieces(rows: int) -> None:
    app = TableApp()
    async with app.run_test() as pilot:
        table = app.query_one(Table)
        table.add_column("n")
        table.fill((f"old {n}", [Text("old")]) for n in range(5 * AT_ONCE))
        assert table.row_count == AT_ONCE
        # Others are wanted before the first have all come.
        table.fill((str(n), [Text(str(n))]) for n in range(rows))
        await until(pilot, lambda: table.row_count == rows)
        await pilot.pause()
        assert [str(key.value) for key in table.rows] == [str(n) for n in range(rows)]
