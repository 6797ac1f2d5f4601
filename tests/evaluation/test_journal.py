"""The journal of answers: nothing lost, nothing twice, wherever the file was torn."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ecellm_mlx.evaluation.journal import AnswerLog, Record

pytestmark = pytest.mark.unit


def record(n: int, decoding: str = "valid", text: str = "") -> Record:
    return {
        "decoding": decoding,
        "id": f"row/{n}",
        "task": "t",
        "setting": "s",
        "prediction": text or f"é\u2028 answer {n}",
    }


RECORDS = [record(0), record(1, "paper"), record(1), record(2, text='"\n{}')]


def lines(path: Path) -> list[Record]:
    return [json.loads(line) for line in path.read_bytes().split(b"\n")[:-1]]


def test_remembers_and_never_repeats(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    journal = AnswerLog(path)
    journal.add(RECORDS[:2])
    journal.add(RECORDS)
    assert ("paper", "row/1") in journal
    assert ("paper", "row/0") not in journal
    journal.close()
    assert lines(path) == RECORDS
    again = AnswerLog(path)
    assert len(again) == 4
    assert again.records["valid"]["row/2"] == RECORDS[3]
    again.close()


def test_torn_at_every_byte(tmp_path: Path) -> None:
    whole = tmp_path / "whole.jsonl"
    journal = AnswerLog(whole)
    journal.add(RECORDS)
    journal.close()
    content = whole.read_bytes()
    torn = tmp_path / "torn.jsonl"
    for size in range(len(content) + 1):
        torn.write_bytes(content[:size])
        journal = AnswerLog(torn)
        assert len(journal) == content[:size].count(b"\n"), "complete lines are kept"
        journal.add(RECORDS)
        journal.close()
        assert torn.read_bytes() == content


@pytest.mark.parametrize("damage", [b"\0" * 40 + b"\n", b'{"id": "x"}\n', b"[]\n", b"3\n"])
def test_a_damaged_end_is_cut_off(tmp_path: Path, damage: bytes) -> None:
    path = tmp_path / "answers.jsonl"
    journal = AnswerLog(path)
    journal.add(RECORDS[:2])
    journal.close()
    with path.open("ab") as stream:
        stream.write(damage)
    journal = AnswerLog(path)
    journal.add(RECORDS[2:])
    journal.close()
    assert lines(path) == RECORDS
