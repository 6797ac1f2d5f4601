"""Known matches: found by the catalogs' own ids, divided by products, turned into rows."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ecellm_mlx.data import rows
from ecellm_mlx.errors import DataError, UsageError
from ecellm_mlx.matching import known as knowns
from ecellm_mlx.matching import pair_rows, pairs
from ecellm_mlx.matching.candidates import Candidate
from ecellm_mlx.matching.job import question_of_pairs
from ecellm_mlx.matching.known import Known
from ecellm_mlx.matching.pairs import Side
from ecellm_mlx.matching.settings import PairSettings
from ecellm_mlx.tables import open_table

from .conftest import side_of

pytestmark = pytest.mark.unit


@pytest.fixture
def sides(amazon: Path, google: Path) -> tuple[Side, Side]:
    return side_of(amazon), side_of(google)


def test_ids_are_found_by_their_values(sides: tuple[Side, Side], matches: Path) -> None:
    left, right = sides
    known = knowns.read(matches, left, right)
    given = {tuple(row.cells) for row in open_table(matches).good_rows()}
    named = {
        (left.rows[i].cells[0], right.rows[j].cells[0])
        for i, found in known.rights.items()
        for j in found
    }
    assert named == given
    assert known.matches == len(given)
    assert known.lost == 0
    i, found = next(iter(known.rights.items()))
    j = next(iter(found))
    stranger = next(n for n in range(len(left.rows)) if n not in known.rights)
    assert known.label(Candidate(i, j, 0.5, 1)) is True
    assert known.label(Candidate(i, j + 1, 0.5, 1)) is (j + 1 in found)
    assert known.label(Candidate(stranger, j, 0.5, 1)) is None


def test_no_match_and_strangers_are_told_apart(
    sides: tuple[Side, Side], matches: Path, tmp_path: Path
) -> None:
    left, right = sides
    lonely = next(row.cells[0] for row in left.rows if row.cells[0] not in matches.read_text())
    path = tmp_path / "known.csv"
    path.write_text(matches.read_text() + f"{lonely},\ngone,{right.rows[0].cells[0]}\n")
    known = knowns.read(path, left, right)
    place = [row.cells[0] for row in left.rows].index(lonely)
    assert known.rights[place] == frozenset()
    assert known.label(Candidate(place, 3, 0.5, 1)) is False
    assert known.lost == 1


def test_what_is_no_known_match_is_a_sentence(
    sides: tuple[Side, Side], matches: Path, tmp_path: Path
) -> None:
    path = tmp_path / "known.csv"
    path.write_text("left\nb000jz4hqo\n")
    with pytest.raises(DataError, match=r"no known matches: expected a column of left ids"):
        knowns.read(path, *sides)
    path.write_text("left,right\n1,2\n3,4\n")
    with pytest.raises(DataError, match=r"no column of amazon_software.csv holds the ids of"):
        knowns.read(path, *sides)
    left = sides[0].rows[0].cells[0]
    path.write_text(f"left,right\n{left},\n")
    with pytest.raises(DataError, match=r"no column of google_products_latin1.csv"):
        knowns.read(path, *sides)


@given(
    st.dictionaries(st.integers(0, 30), st.frozensets(st.integers(0, 12), max_size=3)),
    st.floats(0, 1),
    st.integers(0, 9),
)
def test_no_product_is_in_two_parts(
    rights: dict[int, frozenset[int]], share: float, seed: int
) -> None:
    known = Known(rights, {}, {})
    first, second = known.split(share, seed)
    assert sorted([*first, *second]) == sorted(rights)
    assert len(second) <= round(share * len(rights))
    ours = {right for left in first for right in rights[left]}
    theirs = {right for left in second for right in rights[left]}
    assert not ours & theirs


def written(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def titles(row: dict[str, Any]) -> tuple[str, str]:
    value = json.loads(row["input"])
    return value["product 1"]["title"], value["product 2"]["title"]


def test_rows_ask_what_matching_asks(
    sides: tuple[Side, Side], matches: Path, tmp_path: Path
) -> None:
    left, right = sides
    question = question_of_pairs()
    out = tmp_path / "pairs"
    done = pair_rows.write(left, right, matches, question, out, PairSettings(hold=0.3, val=0.2))
    assert {path.name for path in out.iterdir()} == {"train.jsonl", "val.jsonl", "held.csv"}
    assert len(rows.load(out / "train.jsonl")) == done.train > done.val > 0
    known = knowns.read(matches, left, right)
    held = knowns.read(out / "held.csv", left, right)
    assert held.matches == done.held > 0
    assert all(known.rights[i] == found for i, found in held.rights.items())

    pair_titles = {
        (left.part(left.rows[i], "title"), right.part(right.rows[j], "title"))
        for i, found in known.rights.items()
        for j in found
    }
    train, val = written(out / "train.jsonl"), written(out / "val.jsonl")
    answers = Counter(row["output"] for row in train)
    assert answers["yes"] >= 15
    assert answers["no"] >= 15
    for row in train + val:
        assert (row["output"] == "yes") is (titles(row) in pair_titles)
        assert row["instruction"] == question.instruction
    # A product whose matches were kept aside is in no row, on either side.
    kept = {left.part(left.rows[i], "title") for i in held.rights}
    kept_right = {
        right.part(right.rows[j], "title") for found in held.rights.values() for j in found
    }
    for row in train + val:
        first, second = titles(row)
        assert first not in kept
        assert second not in kept_right
    # What is asked later is what was trained on, word for word.
    table = pairs.PairTable(left, right, [Candidate(0, 0, 0.5, 1)])
    asked = question.reader(table.names)(next(table.good_rows()).cells)
    assert asked.row
    assert asked.row.input.startswith('{"product 1": {"title": ')

    again = tmp_path / "again"
    pair_rows.write(left, right, matches, question, again, PairSettings(hold=0.3, val=0.2))
    assert (again / "train.jsonl").read_bytes() == (out / "train.jsonl").read_bytes()
    with pytest.raises(DataError, match="is not empty"):
        pair_rows.write(left, right, matches, question, out, PairSettings())


def test_shares_that_leave_nothing_are_refused(
    sides: tuple[Side, Side], matches: Path, tmp_path: Path
) -> None:
    question = question_of_pairs()
    with pytest.raises(UsageError, match="--hold and --val are shares"):
        pair_rows.write(*sides, matches, question, tmp_path / "a", PairSettings(hold=1.0))
    with pytest.raises(DataError, match="leaves no match to train on"):
        pair_rows.write(*sides, matches, question, tmp_path / "b", PairSettings(hold=0.99))
