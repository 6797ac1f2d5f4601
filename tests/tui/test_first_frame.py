"""The app opens at any size, loads nothing heavy, and names all its keys."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest
from textual.command import Command, CommandList
from textual.widgets import DataTable, LoadingIndicator

from tui import places
from tui.app import EcellmApp
from tui.commands import PlaceCommands
from tui.dialog import CommandDialog
from tui.places import PLACES
from tui.screens.run import RunScreen
from tui.screens.train import TrainScreen
from tui.widgets.nav import NavItem

from .conftest import screen_text, step, text_of, until, written

SIZES = [(80, 24), (120, 40), (40, 10)]
HEAVY = ("mlx", "mlx_lm", "transformers", "torch", "sklearn")


@pytest.mark.parametrize("size", SIZES)
async def test_every_screen_opens(size: tuple[int, int], model: str) -> None:
    written(*(step(n) for n in range(1, 30)))
    app = EcellmApp()
    async with app.run_test(size=size) as pilot:
        await until(pilot, lambda: app.screen.query_one(DataTable).row_count == 1)
        assert "F2 Home" in screen_text(pilot)
        assert size[1] <= 10 or "This machine" in screen_text(pilot)
        bindings = check_bindings(app)

        await pilot.press("enter")
        await until(pilot, lambda: isinstance(app.screen, RunScreen) and app.screen.view.step)
        await pilot.pause()
        assert "finished" in screen_text(pilot)
        bindings |= check_bindings(app)
        if size >= (80, 24):
            assert app.screen.query_one("#run-body").max_scroll_y == 0
            assert app.screen.query_one("#loss").region.height >= 5

        if size == SIZES[0]:
            await pilot.click(
                next(i for i in app.screen.query(NavItem) if i.place.mode == "train")
            )
        else:
            await pilot.press(places.find("train").key)
        await until(pilot, lambda: isinstance(app.screen, TrainScreen))
        await until(pilot, lambda: "ecellm train" in text_of(app, "#command"))
        bindings |= check_bindings(app)
        assert {"home.open", "run.stop", "train.start", "app.quit", "app.help"} <= bindings

        await pilot.press("f1")
        await pilot.pause()
        assert "Help" in screen_text(pilot)
        await pilot.press("escape")


def check_bindings(app: EcellmApp) -> set[str]:
    """Bindings declared in our classes; each must have an id and a label."""
    found = set()
    for node in (app, app.screen, *app.screen.query("*")):
        if not type(node).__module__.startswith("tui."):
            continue
        for binding in vars(type(node)).get("BINDINGS", []):
            assert binding.id, binding
            assert binding.description, binding
            found.add(binding.id)
    return found


@pytest.mark.parametrize(("size", "columns"), [((80, 24), 1), ((120, 40), 2)])
async def test_wide_screens_have_two_columns(size: tuple[int, int], columns: int) -> None:
    app = EcellmApp()
    async with app.run_test(size=size) as pilot:
        await pilot.pause()
        left, right = app.screen.query_one("#machine"), app.screen.query_one("#home-right")
        assert (left.region.y == right.region.y) is (columns == 2)
        for pane in (left, right):
            assert pane.region.right <= size[0]
            assert pane.region.bottom <= size[1]


def test_first_frame_loads_neither_mlx_nor_a_plot() -> None:
    found = run_and_list_modules("await pilot.pause()")
    assert not {*HEAVY, "numpy", "textual_plot", "huggingface_hub"} & found


def test_the_form_loads_no_mlx() -> None:
    found = run_and_list_modules(
        f"await pilot.press({places.find('train').key!r})",
        "await pilot.pause()",
        "while not all(worker.is_finished for worker in app.workers):",
        "    await pilot.pause(0.05)",
    )
    assert "ecellm_mlx.models.registry" in found
    assert not set(HEAVY) & found


def run_and_list_modules(*steps: str) -> set[str]:
    """Modules that a fresh process has loaded after ``steps`` in the app."""
    body = "\n        ".join(steps)
    program = f"""
import asyncio, json, sys
from tui import device, places
device.DOCTOR = (sys.executable, "-S", "-c", "print(1)")
from tui.app import EcellmApp

async def main():
    app = EcellmApp()
    async with app.run_test(size=(80, 24)) as pilot:
        {body}

asyncio.run(main())
print(json.dumps(sorted(sys.modules)))
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    return set(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.proof
async def test_the_palette_offers_every_key(model: str) -> None:
    app: Any = EcellmApp()
    async with app.run_test(size=(120, 40)) as pilot:
        await pilot.press(places.find("train").key)
        await until(pilot, lambda: isinstance(app.screen, TrainScreen))
        await pilot.press("ctrl+p")
        await until(pilot, lambda: "Copy command" in screen_text(pilot))
        await pilot.press(*"copy comm")
        # The one of this screen comes first.
        await until(pilot, lambda: offered(app) == ["Copy command", "Home: Copy command"])
        await pilot.press("enter")
        await until(pilot, lambda: app.clipboard.startswith("ecellm train"))

        # A command of another place goes there, and waits until its list is read.
        await pilot.press("ctrl+p", *"models: quant")
        await until(pilot, lambda: offered(app) == ["Models: Quantize"])
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(app.screen, CommandDialog))
        assert app.current_mode == "models"
        assert "Quantize tiny" in screen_text(pilot)


def offered(app: EcellmApp) -> list[str]:
    """Commands that the palette lists, once it has searched and one is highlighted."""
    found = app.screen.query_one(CommandList)
    if found.highlighted is None or app.screen.query_one(LoadingIndicator).visible:
        return []
    return [str(option.hit.text) for option in found.options if isinstance(option, Command)]


async def test_the_palette_offers_the_commands_of_all_places() -> None:
    app: Any = EcellmApp()
    async with app.run_test(size=(120, 40)) as pilot:
        provider = PlaceCommands(app.screen)
        await provider.startup()
        titles = [hit.display async for hit in provider.discover()]
        assert len(titles) == len(set(titles))
        assert not [title for title in titles if title.startswith("Home:")]
        for place in PLACES[1:]:
            declared = vars(place.screen_class())["BINDINGS"]
            shown = {f"{place.title}: {b.description}" for b in declared}
            assert shown <= set(titles)
        await pilot.pause()


def test_without_a_terminal_the_error_is_one_sentence() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tui"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "needs a terminal" in done.stderr
    assert "Traceback" not in done.stderr
