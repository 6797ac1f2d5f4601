"""How long a keypress waits in the terminal UI while SmolLM2 trains on the same cores.

    .venv/bin/python benchmarks/tui_latency.py [--seconds 40] [--json]

Needs smollm2-135m in the workspace (`ecellm models import smollm2-135m`). Two sessions
are measured one after the other, through Pilot: without a job, which is the peer, and
with a real training run that the live view follows. In each, keys go to every place.

`key` is the time from a key to its effect (a character in a field, another row, another
place). `stall` is the longest time in which the app could not have taken a key at all,
from a ticker every 5 ms. Goal: no stall over 100 ms while the model trains.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from textual.pilot import Pilot
from textual.widgets import TextArea

from ecellm_mlx import jobs, sample
from ecellm_mlx.jobs import Control, RunDirectory, State
from tui.app import EcellmApp
from tui.messages import RunChosen
from tui.places import PLACES
from tui.screens.run import RunScreen

TICK_S = 0.005
GOAL_S = 0.1
SIZE = (120, 36)


class Stalls:
    """Measures the gaps between ticks of the event loop, in seconds."""

    def __init__(self) -> None:
        self.gaps: list[float] = []
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to tick."""
        self._task = asyncio.create_task(self._tick())

    def stop(self) -> None:
        """Tick no more."""
        if self._task:
            self._task.cancel()

    async def _tick(self) -> None:
        last = time.perf_counter()
        while True:
            await asyncio.sleep(TICK_S)
            now = time.perf_counter()
            self.gaps.append(now - last - TICK_S)
            last = now


async def effect(app: EcellmApp, key: str, seen: Callable[[], Any]) -> float:
    """Seconds from ``key`` to another value of ``seen``."""
    before, start = seen(), time.perf_counter()
    app.simulate_key(key)
    while seen() == before:
        await asyncio.sleep(0.001)
        if time.perf_counter() - start > 10:
            raise TimeoutError(f"{key} had no effect")
    return time.perf_counter() - start


async def session(seconds: float, run: RunDirectory | None) -> dict[str, list[float]]:
    """Use the app for about ``seconds``; returns times of keys and the stalls."""
    keys: list[float] = []
    app = EcellmApp()
    async with app.run_test(size=SIZE) as pilot:
        await visit_all(app, pilot)
        stalls = Stalls()
        stalls.start()
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            for place in PLACES:
                if app.current_mode != place.mode:
                    keys.append(await effect(app, place.key, lambda: app.current_mode))
                await asyncio.sleep(0.1)
            app.action_go("playground")
            box = app.screen.query_one("#free-prompt", TextArea)
            box.focus()
            for letter in "aredkettle":
                keys.append(await effect(app, letter, partial(getattr, box, "text")))
            app.action_go("home")
            if run:
                app.post_message(RunChosen(run.path))
                while not isinstance(app.screen, RunScreen):
                    await asyncio.sleep(0.01)
                screen = app.screen
                await asyncio.sleep(2.5)
                for _ in range(6):
                    keys.append(await effect(app, "l", partial(getattr, screen, "log_scale")))
                    await asyncio.sleep(0.2)
        stalls.stop()
    return {"key": keys, "stall": stalls.gaps}


async def visit_all(app: EcellmApp, pilot: Pilot[None]) -> None:
    """First visits build the screens; they are no keys of a session under way."""
    for place in PLACES:
        await pilot.press(place.key)
        await pilot.pause(0.3)
    await pilot.press("f2")
    await pilot.pause(0.5)


def train(folder: Path) -> tuple[RunDirectory, subprocess.Popen[bytes]]:
    """Start a training run, and wait until it computes steps."""
    from ecellm_mlx.training.launch import launch

    run = launch(
        "smollm2-135m", str(sample.folder()), "smollm2", ["max_steps=500"], folder / "run"
    )
    process = jobs.start(run)
    while run.status().step < 1:
        if run.status().state is State.FAILED:
            raise SystemExit(run.status().message)
        time.sleep(0.5)
    return run, process


def summary(values: list[float]) -> dict[str, float]:
    """Milliseconds."""
    ordered = sorted(values)
    return {
        "n": len(ordered),
        "median_ms": 1e3 * statistics.median(ordered),
        "p99_ms": 1e3 * ordered[int(0.99 * (len(ordered) - 1))],
        "max_ms": 1e3 * ordered[-1],
    }


def main() -> None:
    """Measure without and with a job, and print both."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=40.0)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    results: dict[str, Any] = {}
    found = asyncio.run(session(options.seconds, None))
    results["idle"] = {name: summary(values) for name, values in found.items()}
    with tempfile.TemporaryDirectory() as folder:
        run, process = train(Path(folder))
        first, began = run.status().step, time.perf_counter()
        try:
            found = asyncio.run(session(options.seconds, run))
            steps = run.status().step - first
            minutes = (time.perf_counter() - began) / 60
        finally:
            run.request(Control.STOP)
            process.wait()
    results["training"] = {name: summary(values) for name, values in found.items()}
    results["training"]["steps_per_minute"] = steps / minutes
    results["goal_met"] = results["training"]["stall"]["max_ms"] <= 1e3 * GOAL_S
    if options.json:
        print(json.dumps(results, indent=2))
        return
    for name in ("idle", "training"):
        for what in ("key", "stall"):
            values = results[name][what]
            print(
                f"{name:9} {what:6} median {values['median_ms']:6.1f} ms, "
                f"p99 {values['p99_ms']:6.1f} ms, max {values['max_ms']:6.1f} ms "
                f"({values['n']} times)"
            )
    print(f"steps a minute while measured: {results['training']['steps_per_minute']:.1f}")


if __name__ == "__main__":
    main()
