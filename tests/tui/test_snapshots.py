"""Every place as text at 80×24 and 120×36, compared with what was approved.

``ECELLM_UPDATE_SNAPSHOTS=1 pytest tests/tui/test_snapshots.py`` approves what is
drawn now; look at the difference before you commit it. Text rather than SVG, so that a
difference can be read. pytest-textual-snapshot would do the same, but pins pytest < 9.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from textual.pilot import Pilot

from ecellm_mlx import jobs, sample, workspace
from ecellm_mlx.jobs import State, Status, events
from ecellm_mlx.jobs.events import EventWriter
from tui import child, device, places
from tui.app import EcellmApp
from tui.device import Machine
from tui.dialog import CommandDialog
from tui.messages import RunChosen
from tui.places import PLACES, Place
from tui.screens import catalog, models, train
from tui.screens.help import HelpScreen
from tui.screens.jump import JumpScreen
from tui.screens.run import RunScreen

from .conftest import screen_text, step, until

FOLDER = Path(__file__).with_name("snapshots")
THEMES = ("textual-dark", "textual-light", "colour-blind-dark", "colour-blind-light")
SIZES = [(80, 24), (120, 36)]
UPDATE = bool(os.environ.get("ECELLM_UPDATE_SNAPSHOTS"))


@pytest.fixture(autouse=True)
def home(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A workspace whose path is as long on every machine: paths wrap."""
    with tempfile.TemporaryDirectory(prefix="e-", dir="/tmp") as folder:
        path = Path(folder)
        monkeypatch.setenv("ECELLM_HOME", folder)
        monkeypatch.chdir(path)
        shutil.copytree(sample.folder(), path / "sample")
        monkeypatch.setattr(sample, "folder", lambda: path / "sample")
        yield path


@pytest.fixture(autouse=True)
def fixed(monkeypatch: pytest.MonkeyPatch, home: Path, model: str) -> None:
    """A machine and a clock that are the same everywhere, and no questions to a child."""
    monkeypatch.setattr(device, "machine", lambda: Machine(16.0, 9.5, 120.0, Path("~/ecellm")))
    monkeypatch.setattr(child, "ask", lambda words: (None, "Not asked in this test."))
    for screen in (train, catalog):
        monkeypatch.setattr(screen, "SETTLE_S", 0)
    fit = {"fit": "yes", "fit_detail": "training peaks at 1.0 of 16.0 GiB"}
    monkeypatch.setattr(models, "_fit", lambda name: fit)
    monkeypatch.setattr(time, "localtime", time.gmtime)
    memory = type("Memory", (), {"total": 16 * 1024**3, "available": 8 * 1024**3})
    monkeypatch.setattr("psutil.virtual_memory", memory)


def finished_run() -> jobs.RunDirectory:
    """A training run that ended long ago."""
    run = jobs.create(
        "train", {"model_name": "tiny"}, out=workspace.current().runs / "train-one"
    )
    writer = EventWriter(run.events_file)
    facts = {"dropped_rows": 1, "cut_rows": 2, "padding": 0.05}
    writer.write(events.Started(time=0, kind="train", pid=1, device="cpu", facts=facts))
    for number in range(1, 61):
        writer.write(step(number, time=number / 2, epoch=number / 20, padding=0.05))
        if number % 20 == 0:
            loss = 5.0 / number
            writer.write(events.EvalMetrics(time=number / 2, step=number, loss=loss))
    writer.write(events.Finished(time=31, outcome="finished", results={"loss": 0.1}))
    writer.close()
    run.write_status(Status(state=State.FINISHED, step=60, total_steps=60))
    return run


async def drawn(pilot: Pilot[None]) -> str:
    """The screen once it no longer changes, without what differs between machines."""
    last, same = "", 0
    for _ in range(200):
        await pilot.pause(0.05)
        text = screen_text(pilot)
        same = same + 1 if text == last else 0
        if same == 6:
            break
        last = text
    # A path may be cut off at a border, too.
    text = re.sub(r"/tmp/e-\w*", "HOME", text)
    # What was replaced shifts what follows; borders and padding tell nothing here.
    lines = (re.sub(r"[ ─]+", " ", line).rstrip(" │╮╯▁▔") for line in text.splitlines())
    return "\n".join(lines) + "\n"


def compare(name: str, size: tuple[int, int], text: str) -> None:
    """Compare with the approved text."""
    file = FOLDER / f"{name}-{size[0]}x{size[1]}.txt"
    if UPDATE:
        file.write_text(text, encoding="utf-8")
    assert file.is_file(), f"nothing approved for {file.name}; see the module's docstring"
    assert text == file.read_text(encoding="utf-8")


@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
@pytest.mark.parametrize("place", PLACES, ids=lambda place: place.mode)
async def test_a_place_looks_as_approved(place: Place, size: tuple[int, int]) -> None:
    finished_run()
    app = EcellmApp()
    async with app.run_test(size=size) as pilot:
        await pilot.press(place.key)
        await until(pilot, lambda: app.current_mode == place.mode)
        compare(place.mode, size, await drawn(pilot))


@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
async def test_a_run_and_the_dialogs_look_as_approved(size: tuple[int, int]) -> None:
    run = finished_run()
    app = EcellmApp()
    async with app.run_test(size=size) as pilot:
        await pilot.press(places.find("models").key)
        await until(pilot, lambda: app.current_mode == "models")
        await pilot.press("ctrl+o")
        await until(pilot, lambda: isinstance(app.screen, JumpScreen))
        compare("jump", size, await drawn(pilot))
        await pilot.press("escape", "i")
        await until(pilot, lambda: isinstance(app.screen, CommandDialog))
        compare("dialog", size, await drawn(pilot))
        await pilot.press("escape", "f1")
        await until(pilot, lambda: isinstance(app.screen, HelpScreen))
        compare("help", size, await drawn(pilot))
        await pilot.press("escape")
        app.post_message(RunChosen(run.path))
        await until(pilot, lambda: isinstance(app.screen, RunScreen) and app.screen.view.step)
        compare("run", size, await drawn(pilot))


async def test_themes_leave_the_text_alone() -> None:
    finished_run()
    app = EcellmApp()
    async with app.run_test(size=(80, 24)) as pilot:
        texts = set()
        for theme in (
            "textual-dark",
            "textual-light",
            "colour-blind-dark",
            "colour-blind-light",
        ):
            app.theme = theme
            await asyncio.sleep(0.1)
            texts.add(await drawn(pilot))
        # Nothing is said by colour alone.
        assert len(texts) == 1
