"""The answers that a catalog run has so far, safe against a kill at any instant.

A SQLite database in WAL mode beside the output. It holds, for each configuration that was
ever run on this output, answers by row fingerprint; and for the current reading of the
table (a *pass*) a plan that says in which chunk of rows each different input comes first.

The plan is what makes a resumed run equal to an uninterrupted one byte for byte: which rows
share a batch follows from the table and from what earlier passes had answered, never from
where this one was killed. One process at a time: the database is locked while a job runs.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from ecellm_mlx.errors import JobError, StorageError

MODEL, PERSON = "model", "person"
# SQLite's limit on the variables of a statement is 999 in old builds.
MAX_VARIABLES = 900
BINS = 10
BLOCK_ENTRIES = 2048
BUSY_S = 0.5

SCHEMA = """
CREATE TABLE IF NOT EXISTS configurations (id INTEGER PRIMARY KEY, identity TEXT UNIQUE);
CREATE TABLE IF NOT EXISTS passes (
    id INTEGER PRIMARY KEY, configuration INTEGER, source TEXT, planned INTEGER, rows INTEGER,
    UNIQUE (configuration, source)
);
CREATE TABLE IF NOT EXISTS plan (
    pass INTEGER, key BLOB, chunk INTEGER, PRIMARY KEY (pass, key)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS answers (
    configuration INTEGER, key BLOB, answer TEXT, confidence REAL, error TEXT, origin TEXT,
    pass INTEGER, PRIMARY KEY (configuration, key)
) WITHOUT ROWID;
"""


@dataclass(frozen=True)
class Entry:
    """One answer; ``confidence`` 0-1 where there is one, ``error`` instead of an answer."""

    key: bytes
    answer: str
    confidence: float | None = None
    error: str = ""
    origin: str = MODEL


@dataclass(frozen=True)
class Planned:
    """What the journal knows of a key: the chunk it is planned in, the pass that answered."""

    chunk: int | None
    answered_in: int | None


class CatalogJournal:
    """Opens or creates the journal at ``path`` and locks it.

    Args:
        path: the database.
        identity: what answers depend on, as JSON values; one configuration each.
        new: keep answers of a configuration that is not there yet apart from the others.

    Raises:
        JobError: it holds answers of other configurations only and ``new`` is not set, or
            another process has it open.
        StorageError: the file is no journal, or cannot be written.
    """

    def __init__(self, path: Path, identity: dict[str, Any], *, new: bool = False) -> None:
        self.path = path
        self.pass_id = 0
        with self._errors():
            self._database = sqlite3.connect(path, isolation_level=None, timeout=BUSY_S)
            try:
                self._database.execute("PRAGMA locking_mode = EXCLUSIVE")
                self._database.execute("PRAGMA journal_mode = WAL")
                self._database.execute("PRAGMA synchronous = FULL")
                self._database.executescript(SCHEMA)
                self.configuration = self._configure(identity, new)
            except BaseException:
                self._database.close()
                raise

    def begin(self, source: str) -> bool:
        """Start or continue the pass over a table.

        Args:
            source: fingerprint of the table and of how it is divided into batches.

        Returns:
            Whether the plan is complete; if not, ``plan`` must be given all of it.
        """
        with self._errors(), self._transaction():
            values = (self.configuration, source)
            self._database.execute(
                "INSERT OR IGNORE INTO passes (configuration, source, planned, rows) "
                "VALUES (?, ?, 0, 0)",
                values,
            )
            self.pass_id, planned = self._database.execute(
                "SELECT id, planned FROM passes WHERE configuration = ? AND source = ?", values
            ).fetchone()
            # Plans of other passes are done with; answers stay.
            self._database.execute("DELETE FROM plan WHERE pass != ?", (self.pass_id,))
            self._database.execute(
                "UPDATE passes SET planned = 0 WHERE id != ?", (self.pass_id,)
            )
            if not planned:
                self._database.execute("DELETE FROM plan WHERE pass = ?", (self.pass_id,))
        return bool(planned)

    def plan(self, chunk: int, keys: Iterable[bytes]) -> None:
        """Keys of a chunk of rows; a key belongs to the first chunk that names it."""
        with self._errors(), self._transaction():
            self._database.executemany(
                "INSERT OR IGNORE INTO plan VALUES (?, ?, ?)",
                [(self.pass_id, key, chunk) for key in keys],
            )

    def planned(self, rows: int) -> None:
        """The plan is complete and covers ``rows`` rows."""
        with self._errors():
            self._database.execute(
                "UPDATE passes SET planned = 1, rows = ? WHERE id = ?", (rows, self.pass_id)
            )

    @property
    def rows(self) -> int:
        """Rows that the plan covers."""
        row = self._database.execute("SELECT rows FROM passes WHERE id = ?", (self.pass_id,))
        return int(row.fetchone()[0])

    def known(self, keys: Sequence[bytes]) -> dict[bytes, Planned]:
        """What is known of some keys."""
        by_key: dict[bytes, Planned] = {}
        for part in _parts(keys):
            marks = ", ".join("?" * len(part))
            rows = self._database.execute(
                "SELECT p.key, p.chunk, a.pass FROM plan p "
                "LEFT JOIN answers a ON a.configuration = ? AND a.key = p.key "
                f"WHERE p.pass = ? AND p.key IN ({marks})",
                (self.configuration, self.pass_id, *part),
            )
            by_key.update({key: Planned(chunk, answered) for key, chunk, answered in rows})
        return by_key

    def entries(self, keys: Sequence[bytes]) -> dict[bytes, Entry]:
        """The answers of some keys."""
        by_key: dict[bytes, Entry] = {}
        for part in _parts(keys):
            marks = ", ".join("?" * len(part))
            rows = self._database.execute(
                "SELECT key, answer, confidence, error, origin FROM answers "
                f"WHERE configuration = ? AND key IN ({marks})",
                (self.configuration, *part),
            )
            by_key.update({row[0]: Entry(*row) for row in rows})
        return by_key

    def all_entries(self) -> Iterator[Entry]:
        """All answers of this configuration, by key."""
        rows = self._database.execute(
            "SELECT key, answer, confidence, error, origin FROM answers "
            "WHERE configuration = ? ORDER BY key",
            (self.configuration,),
        )
        return (Entry(*row) for row in rows)

    def add(self, entries: Iterable[Entry]) -> None:
        """Record answers in one durable transaction; a person's answer is never replaced."""
        with self._errors(), self._transaction():
            self._database.executemany(
                "INSERT INTO answers VALUES (?, ?, ?, ?, ?, ?, ?) "
                "ON CONFLICT (configuration, key) DO UPDATE SET answer = excluded.answer, "
                "confidence = excluded.confidence, error = excluded.error, "
                "origin = excluded.origin "
                "WHERE answers.origin = 'model' OR excluded.origin = 'person'",
                [
                    (
                        self.configuration, e.key, e.answer, e.confidence, e.error, e.origin,
                        self.pass_id,
                    )
                    for e in entries
                ],
            )  # fmt: skip

    def blocks(self) -> Iterator[str]:
        """All answers that are there now as texts, for the journals of other ranks."""
        # Read to its end first: what others send is added to the same table meanwhile.
        keys = iter([entry.key for entry in self.all_entries()])
        while part := list(islice(keys, BLOCK_ENTRIES)):
            yield json.dumps(
                [
                    [e.key.hex(), e.answer, e.confidence, e.error, e.origin]
                    for e in self.entries(part).values()
                ]
            )

    def add_block(self, text: str) -> None:
        """Record the answers of a block of another journal."""
        self.add(Entry(bytes.fromhex(key), *values) for key, *values in json.loads(text))

    def histogram(self) -> list[int]:
        """Answers of this configuration by confidence, in ten bins."""
        bins = [0] * BINS
        rows = self._database.execute(
            "SELECT CAST(confidence * ? AS INTEGER), COUNT(*) FROM answers "
            "WHERE configuration = ? AND confidence IS NOT NULL GROUP BY 1",
            (BINS, self.configuration),
        )
        for place, count in rows:
            bins[min(max(place, 0), BINS - 1)] += count
        return bins

    def close(self) -> None:
        """Close and unlock the database."""
        self._database.close()

    def __enter__(self) -> CatalogJournal:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _configure(self, identity: dict[str, Any], new: bool) -> int:
        mine = json.dumps(identity, sort_keys=True)
        identity = json.loads(mine)  # with lists where there were tuples, as stored
        kept = self._database.execute(
            "SELECT id, identity FROM configurations ORDER BY id DESC"
        ).fetchall()
        for number, theirs in kept:
            if theirs == mine:
                return int(number)
        if kept and not new:
            theirs = json.loads(kept[0][1])
            names = sorted(k for k in {*identity, *theirs} if identity.get(k) != theirs.get(k))
            verb = "differs" if len(names) == 1 else "differ"
            raise JobError(
                f"{self.path} holds answers of another run ({', '.join(names)} {verb})",
                cure="use the same settings, keep the new answers apart with --new, or give "
                "another --out",
            )
        with self._transaction():
            cursor = self._database.execute(
                "INSERT INTO configurations (identity) VALUES (?)", (mine,)
            )
        return int(cursor.lastrowid or 0)

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        self._database.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._database.execute("ROLLBACK")
            raise
        self._database.execute("COMMIT")

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:
            if "locked" in str(error):
                raise JobError(
                    f"{self.path} is in use by another job", cure="wait for it, or stop it"
                ) from error
            raise StorageError(
                f"{self.path} cannot be written",
                got=str(error),
                cure="free some space, then go on with --resume",
            ) from error
        except sqlite3.Error as error:
            raise StorageError(
                f"{self.path} cannot be used as a journal", got=str(error), cure="remove it"
            ) from error


def _parts(keys: Sequence[bytes]) -> Iterator[Sequence[bytes]]:
    for start in range(0, len(keys), MAX_VARIABLES):
        yield keys[start : start + MAX_VARIABLES]
