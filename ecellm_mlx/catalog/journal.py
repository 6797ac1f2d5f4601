"""The answers that a catalog run has so far, safe against a kill at any instant.

A SQLite database in WAL mode beside the output: input fingerprint → answer, and
the configuration that the answers belong to. A resumed run asks it first.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ecellm_mlx.errors import JobError, StorageError


@dataclass(frozen=True)
class Entry:
    """One answer; ``confidence`` where options were scored, ``error`` instead of an answer."""

    key: str
    answer: str
    confidence: float | None = None
    error: str = ""


class Journal:
    """Opens or creates the journal at ``path`` for one configuration.

    Raises:
        JobError: the journal holds answers of another configuration.
        StorageError: the file is no journal, or cannot be written.
    """

    def __init__(self, path: Path, config: dict[str, Any]) -> None:
        self.path = path
        try:
            self._database = sqlite3.connect(path, isolation_level=None)
            self._database.execute("PRAGMA journal_mode = WAL")
            self._database.execute("PRAGMA synchronous = FULL")
            self._database.execute(
                "CREATE TABLE IF NOT EXISTS answers "
                "(key TEXT PRIMARY KEY, answer TEXT, confidence REAL, error TEXT)"
            )
            self._database.execute("CREATE TABLE IF NOT EXISTS job (config TEXT)")
            self._check(config)
        except sqlite3.Error as error:
            raise StorageError(
                f"{path} cannot be used as a journal", got=str(error), cure="remove it"
            ) from error

    def entries(self) -> dict[str, Entry]:
        """All answers by key."""
        found = self._database.execute("SELECT key, answer, confidence, error FROM answers")
        return {row[0]: Entry(*row) for row in found}

    def add(self, entries: Iterable[Entry]) -> None:
        """Record answers in one durable transaction."""
        try:
            self._database.execute("BEGIN IMMEDIATE")
            self._database.executemany(
                "INSERT OR REPLACE INTO answers VALUES (?, ?, ?, ?)",
                [(e.key, e.answer, e.confidence, e.error) for e in entries],
            )
            self._database.execute("COMMIT")
        except sqlite3.Error as error:
            raise StorageError(
                f"{self.path} cannot be written", got=str(error), cure="free some space"
            ) from error

    def close(self) -> None:
        """Close the database."""
        self._database.close()

    def _check(self, config: dict[str, Any]) -> None:
        mine = json.dumps(config, sort_keys=True)
        found = self._database.execute("SELECT config FROM job").fetchone()
        if found is None:
            self._database.execute("INSERT INTO job VALUES (?)", (mine,))
            return
        theirs = json.loads(found[0])
        changed = sorted(k for k in {*config, *theirs} if config.get(k) != theirs.get(k))
        if changed:
            raise JobError(
                f"{self.path} holds answers of another run ({', '.join(changed)} differ)",
                cure="use the same settings, or give another --out",
            )
