"""The journal of an evaluation: its answers so far, safe against a kill at any instant.

One JSON line per answer in ``answers.jsonl`` of the run, only ever appended to, and
flushed to the disk with each group of answers. A process that is killed while it writes
leaves half a line; whoever opens the journal next cuts it off, and that answer is made
again. One process at a time owns a run (``RunDirectory.lock``), so nobody else writes.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any

from ecellm_mlx.data.rows import Row
from ecellm_mlx.files import storage_errors, sync_descriptor

FILE = "answers.jsonl"

# A line: decoding, id, task, setting, prediction; probability where options were scored, and
# shortened where the input lost so many tokens.
Record = dict[str, Any]


class AnswerLog:
    """Opens or creates the journal at ``path`` and mends its end.

    ``records`` holds its answers by decoding and row id.

    Raises:
        StorageError: the file cannot be read or written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.records: dict[str, dict[str, Record]] = {}
        with storage_errors(path):
            self._stream: IO[bytes] = path.open("a+b", buffering=0)
            self._stream.seek(0)
            whole = 0
            for line in self._stream.read().split(b"\n")[:-1]:
                record = _parse(line)
                if record is None:
                    # Only what was written last can be damaged: the rest is kept.
                    break
                self._remember(record)
                whole += len(line) + 1
            self._stream.truncate(whole)

    def __contains__(self, key: tuple[str, str]) -> bool:
        decoding, identity = key
        return identity in self.records.get(decoding, {})

    def __len__(self) -> int:
        return sum(map(len, self.records.values()))

    def add(self, records: Iterable[Record]) -> None:
        """Append answers that are not there yet, durably."""
        fresh = [r for r in records if (r["decoding"], r["id"]) not in self]
        block = "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in fresh).encode()
        with storage_errors(self.path):
            rest = memoryview(block)
            while rest:
                rest = rest[self._stream.write(rest) :]
            sync_descriptor(self._stream.fileno())
        for record in fresh:
            self._remember(record)

    def close(self) -> None:
        """Close the file."""
        self._stream.close()

    def _remember(self, record: Record) -> None:
        self.records.setdefault(record["decoding"], {})[record["id"]] = record


def record(
    row: Row,
    decoding: str,
    prediction: str,
    *,
    probability: float | None = None,
    shortened: int = 0,
) -> Record:
    """An answer as a line of the journal; ``shortened`` counts tokens."""
    line: Record = {
        "decoding": str(decoding),
        "id": row.id,
        "task": row.task,
        "setting": row.setting,
        "prediction": prediction,
    }
    if probability is not None:
        line["probability"] = round(probability, 6)
    if shortened:
        line["shortened"] = shortened
    return line


def count(run: Path) -> int:
    """How many answers the journal of a run has, without opening it for writing."""
    path = run / FILE
    with storage_errors(path):
        return path.read_bytes().count(b"\n") if path.exists() else 0


def _parse(line: bytes) -> Record | None:
    try:
        record = json.loads(line)
        _ = record["decoding"], record["id"], record["prediction"]
    except (ValueError, KeyError, TypeError):
        return None
    return record if isinstance(record, dict) else None
