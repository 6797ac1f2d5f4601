"""Pull and push from the screens, by the real commands, with a hub on this machine."""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from textual.widgets import DataTable, Input, ProgressBar

from tests.hub.fake_hub import FakeHub
from tests.hub.fake_uploads import TOKEN
from tui import places
from tui.app import EcellmApp
from tui.dialog import CommandDialog
from tui.screens.adapters import AdaptersScreen
from tui.screens.models import ModelsScreen
from tui.screens.quit import QuitDialog
from tui.widgets.cycle import Cycle

from .conftest import screen_text, text_of, until

WIDE = (120, 40)
WEIGHTS = "model.safetensors"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """A hub that the commands of the app talk to."""
    with FakeHub() as fake:
        for name, value in {
            "HF_ENDPOINT": fake.url,
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_XET": "1",
            "HF_HOME": str(tmp_path / "hf"),
            "HF_TOKEN": TOKEN,
            "NO_PROXY": "127.0.0.1",
        }.items():
            monkeypatch.setenv(name, value)
        yield fake


def tiny_model() -> dict[str, bytes]:
    """Files of a model, with 4 MB of weights."""
    size = 4_000_000
    entry = {"w": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}
    header = json.dumps(entry).encode()
    return {
        "config.json": b'{"model_type": "phi"}',
        WEIGHTS: struct.pack("<Q", len(header)) + header + bytes(size),
        "tokenizer.json": b'{"model": {}}',
        "tokenizer_config.json": b"{}",
    }


@pytest.mark.proof
async def test_a_pull_shows_how_far_it_is_and_goes_on_after_a_break(
    hub: FakeHub, home: Path
) -> None:
    hub.commit("NingLab/eCeLLM-S", tiny_model())
    hub.stall.add(WEIGHTS)
    app = EcellmApp()
    async with app.run_test(size=WIDE) as pilot:
        await pilot.press(places.find("models").key)
        await until(pilot, lambda: isinstance(app.screen, ModelsScreen) and app.screen.entries)
        screen = app.screen
        assert isinstance(screen, ModelsScreen)
        table = screen.query_one(DataTable)
        table.move_cursor(row=list(screen.entries).index("ecellm-s"))
        await pilot.press("p")
        bar = screen.query_one("#activity ProgressBar", ProgressBar)
        await until(pilot, lambda: bar.display and bar.percentage, "half of the weights")
        assert 0.2 < (bar.percentage or 0) < 0.8
        assert f"{bar.percentage or 0:.0%} of 4.0 MB" in text_of(app, "#activity-line")

        # Leaving would end it, so it is asked about.
        await pilot.press("ctrl+q")
        await until(pilot, lambda: isinstance(app.screen, QuitDialog))
        assert "ecellm models pull ecellm-s" in text_of(app, "#quit-commands")
        assert not app.screen.query("#stop, #quit-jobs")
        await pilot.press("s", "escape")
        await until(pilot, lambda: app.screen is screen)
        await pilot.press("ctrl+x")
        await until(pilot, lambda: not screen.running, "the end of the pull")
        assert not screen.entries["ecellm-s"].here

        hub.stall.clear()
        await pilot.press("p")
        await until(pilot, lambda: screen.entries["ecellm-s"].here, "the model")
        assert hub.asked(WEIGHTS)[-1].range, "it began anew"


@pytest.mark.proof
async def test_an_adapter_is_pushed_after_a_dry_run(
    hub: FakeHub, home: Path, trained: Path
) -> None:
    shutil.copytree(trained, home / "runs" / trained.name)
    app = EcellmApp()
    async with app.run_test(size=WIDE) as pilot:
        await pilot.press(places.find("adapters").key)
        await until(
            pilot, lambda: isinstance(app.screen, AdaptersScreen) and app.screen.entries
        )
        for dry in (True, False):
            await pilot.press("u")
            await until(pilot, lambda: isinstance(app.screen, CommandDialog))
            app.screen.query_one("#field-repo Input", Input).value = "shop/tuned"
            if not dry:
                app.screen.query_one("#field-dry Cycle", Cycle).action_next(1)
            await pilot.press("ctrl+r")
            await until(pilot, lambda: text_of(app, "#activity-line")[0] in "✓✗")
            assert "✓ done" in text_of(app, "#activity-line"), screen_text(pilot)
            assert ("shop/tuned" in hub.repos) is not dry
        assert hub.repos["shop/tuned"].private
        assert "adapters.safetensors" in next(
            reversed(hub.repos["shop/tuned"].commits.values())
        )
