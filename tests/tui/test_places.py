"""The line of places: what it says at every width, and that there is room for one more."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tui import places
from tui.app import EcellmApp
from tui.places import PLACES, Place
from tui.widgets import nav
from tui.widgets.nav import NavItem, fitting

from .conftest import screen_text

NINTH = Place("studies", "Studies", "Study", "tui.screens.home:HomeScreen")
numbers = st.integers(1, places.LAST_KEY - places.FIRST_KEY + 1)
titles = st.text("abcdefgh", min_size=3, max_size=12)


@st.composite
def tables(draw: st.DrawFn) -> tuple[Place, ...]:
    """A table of places with short titles that are no longer than the long ones."""
    made = []
    for number in range(draw(numbers)):
        title = draw(titles)
        short = title[: draw(st.integers(3, len(title)))]
        made.append(Place(f"place-{number}", title, short, "module:Screen"))
    return tuple(made)


@given(tables(), st.integers(40, 200), st.data())
def test_the_line_fits_and_says_where_one_is(
    table: tuple[Place, ...], width: int, data: st.DataObject
) -> None:
    current = data.draw(st.sampled_from(table))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(places, "PLACES", table)
        text = fitting(table, current.mode, width)
        taken = text.width(table)
        assert [place.key for place in table] == [f"f{n}" for n in range(2, 2 + len(table))]
    title = dict(zip(table, text.titles, strict=True))[current]
    assert title
    assert current.title.startswith(title)
    # Eleven places do not fit into the smallest terminals: there keys are cut.
    assert taken - 1 <= width or not any(
        title for place, title in zip(table, text.titles, strict=True) if place != current
    )


@pytest.mark.parametrize("size", [(80, 24), (120, 36)])
async def test_there_is_room_for_one_more_place(
    size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    more = (*PLACES, NINTH)
    monkeypatch.setattr(places, "PLACES", more)
    monkeypatch.setattr(nav, "PLACES", more)
    app = EcellmApp()
    async with app.run_test(size=size) as pilot:
        await pilot.pause()
        line = screen_text(pilot).splitlines()[0]
        for place in more:
            assert f"{place.key_label} {place.title[:3]}" in line
        assert "F1" in line
        items = list(app.screen.query(NavItem))
        assert len(items) == len(more)
        for item in items:
            assert item.region.width == item.content_size.width
            assert item.region.right <= size[0] - len(" F1 ")


def test_a_place_is_found_by_its_name() -> None:
    assert places.find("train").key == "f5"
    assert len({place.mode for place in PLACES}) == len(PLACES)
