"""Stop texts: an answer ends before the first, and nothing behind it is ever shown."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ecellm_mlx.errors import UsageError
from ecellm_mlx.inference.stops import Stops

pytestmark = pytest.mark.unit

TEXT = st.text("ab#\n ", max_size=30)


@given(text=TEXT, stops=st.lists(st.text("ab#\n", min_size=1, max_size=4), max_size=3))
def test_what_was_shown_is_never_taken_back(text: str, stops: list[str]) -> None:
    """However a text grows, what is settled is the beginning of the answer in the end."""
    looking = Stops(stops)
    shown = ""
    for length in range(len(text) + 1):
        so_far = text[:length]
        if looking.reached(so_far):
            break
        settled = looking.settled(so_far)
        assert settled.startswith(shown)
        shown = settled
    answer = looking.cut(so_far)
    assert answer.startswith(shown)
    assert not any(stop in answer for stop in stops)
    assert answer == min([so_far.split(stop, 1)[0] for stop in stops] + [so_far], key=len)


def test_without_stops_nothing_is_held_back() -> None:
    none = Stops(())
    assert not none
    assert not none.reached("a\n###")
    assert none.cut("a\n###") == none.settled("a\n###") == "a\n###"
    assert Stops(("\n###",)).settled("a\n##") == "a"


def test_an_empty_stop_is_refused() -> None:
    with pytest.raises(UsageError, match="a stop text is empty"):
        Stops(["x", ""])
