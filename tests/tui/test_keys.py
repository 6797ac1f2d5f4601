"""The line of keys: what it shows, where it cuts, and that a click presses the key."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from tui import places
from tui.app import EcellmApp
from tui.screens.models import ModelsScreen
from tui.screens.quit import QuitDialog
from tui.widgets.key_bar import KeyBar, ShownKey, fitting

from .conftest import screen_text, until

texts = st.text("abc", min_size=1, max_size=12)
keys = st.lists(st.builds(ShownKey, texts, texts, texts), max_size=12)


@given(keys, keys, st.integers(1, 200))
def test_keys_keep_their_order_and_never_overlap(
    own: list[ShownKey], last: list[ShownKey], width: int
) -> None:
    placed = fitting(own, last, width)
    names = [key.key for key in placed]
    shown = len(placed) - len(last)
    assert names == [key.key for key in [*own[:shown], *last]]
    for left, right in pairwise(placed):
        assert left.x + left.width < right.x
    if shown:
        assert placed[-1].x + placed[-1].width <= width


async def test_the_line_shows_the_keys_of_what_is_in_focus_and_takes_clicks(
    home: object,
) -> None:
    app = EcellmApp()
    async with app.run_test(size=(80, 24)) as pilot:
        await pilot.press(places.find("models").key)
        await until(pilot, lambda: isinstance(app.screen, ModelsScreen) and app.screen.entries)
        await until(pilot, lambda: "Train with it" in screen_text(pilot))
        line = screen_text(pilot).splitlines()[-1]
        assert line.rstrip().endswith("^p All commands")
        await pilot.click(KeyBar, offset=(line.index("^q"), 0))
        await until(pilot, lambda: not app.is_running or isinstance(app.screen, QuitDialog))
