"""The journal: answers by configuration, a plan for each pass, one owner."""

from __future__ import annotations

from pathlib import Path

import pytest

from ecellm_mlx.catalog.journal import PERSON, CatalogJournal, Entry
from ecellm_mlx.errors import JobError, StorageError

pytestmark = pytest.mark.unit

A, B = {"model": "a", "task": "x"}, {"model": "b", "task": "x"}
ONE, TWO = b"1" * 16, b"2" * 16


def test_answers_survive_and_are_kept_apart(tmp_path: Path) -> None:
    path = tmp_path / "j.sqlite"
    with CatalogJournal(path, A) as journal:
        journal.begin("table")
        journal.add([Entry(ONE, "yes", 0.5), Entry(TWO, "", error="why")])
    with pytest.raises(JobError, match=r"\(model differs\)"):
        CatalogJournal(path, B)
    with CatalogJournal(path, B, new=True) as journal:
        assert journal.entries([ONE]) == {}
        journal.begin("table")
        journal.add([Entry(ONE, "no", 1.0)])
        assert journal.histogram() == [0] * 9 + [1]
    with CatalogJournal(path, A) as journal:
        assert journal.entries([ONE, TWO]) == {
            ONE: Entry(ONE, "yes", 0.5),
            TWO: Entry(TWO, "", error="why"),
        }
        assert [entry.key for entry in journal.all_entries()] == [ONE, TWO]


def test_a_plan_says_where_an_input_comes_first(tmp_path: Path) -> None:
    with CatalogJournal(tmp_path / "j.sqlite", A) as journal:
        assert not journal.begin("table")
        journal.plan(0, [ONE])
        journal.plan(1, [ONE, TWO])
        # Killed here, the plan would start from nothing.
        assert not journal.begin("table")
        assert journal.known([ONE, TWO]) == {}
        journal.plan(0, [ONE])
        journal.plan(1, [ONE, TWO])
        journal.planned(3)
        assert journal.begin("table")
        assert journal.rows == 3
        journal.add([Entry(TWO, "x")])
        first = journal.pass_id
        known = journal.known([ONE, TWO])
        assert [known[ONE].chunk, known[ONE].answered_in] == [0, None]
        assert [known[TWO].chunk, known[TWO].answered_in] == [1, first]
        # Another export of the table: another plan, the same answers.
        assert not journal.begin("newer table")
        journal.plan(0, [TWO])
        assert journal.known([ONE, TWO]).keys() == {TWO}
        assert journal.known([TWO])[TWO].answered_in == first != journal.pass_id


def test_many_keys_at_once(tmp_path: Path) -> None:
    keys = [number.to_bytes(16, "big") for number in range(3000)]
    with CatalogJournal(tmp_path / "j.sqlite", A) as journal:
        journal.begin("table")
        journal.plan(0, keys)
        journal.add([Entry(key, "x") for key in keys])
        assert len(journal.entries(keys)) == len(journal.known(keys)) == 3000


def test_a_person_has_the_last_word(tmp_path: Path) -> None:
    with CatalogJournal(tmp_path / "j.sqlite", A) as journal:
        journal.begin("table")
        journal.add([Entry(ONE, "red", 0.4)])
        journal.add([Entry(ONE, "blue", 1.0, origin=PERSON)])
        journal.add([Entry(ONE, "green", 0.9)])
        assert journal.entries([ONE])[ONE].answer == "blue"


def test_one_process_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "j.sqlite"
    with CatalogJournal(path, A), pytest.raises(JobError, match="in use by another job"):
        CatalogJournal(path, A)
    with CatalogJournal(path, A):
        pass


def test_what_is_no_journal_is_a_sentence(tmp_path: Path) -> None:
    path = tmp_path / "j.sqlite"
    path.write_bytes(b"no database at all, but long enough to be looked at" * 20)
    with pytest.raises(StorageError, match="cannot be used as a journal"):
        CatalogJournal(path, A)
