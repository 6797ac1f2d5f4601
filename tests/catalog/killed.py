"""Runs a catalog job with a model of no weight: ``python killed.py RUN_DIR``.

The answer of a row is a function of its text and of the rows that share its batch, so
that any difference in batches shows. Each batch takes ``BATCH_SECONDS``. The process
kills itself ``DIE_AFTER`` seconds after the job began, or while it writes ``DIE_AT_ROW``.
"""

from __future__ import annotations

import hashlib
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from ecellm_mlx import jobs
from ecellm_mlx.catalog import answering, job, writing
from ecellm_mlx.data.rows import Row
from ecellm_mlx.inference.answers import Answer
from ecellm_mlx.inference.protocol import Decoding

SECONDS = float(os.environ.get("BATCH_SECONDS", "0"))
answering.MIN_CHUNK_ROWS, answering.BATCHES_PER_CHUNK = 8, 2
left = [int(os.environ.get("DIE_AT_ROW", "0"))]
entry_of = writing._entry


class Weightless:
    tokens_per_second = 0.0

    def __init__(self, *_: Any, **__: Any) -> None: ...

    def answer(self, rows: Sequence[Row]) -> Iterator[Answer]:
        time.sleep(SECONDS)
        batch = hashlib.sha256("".join(row.input for row in rows).encode()).hexdigest()
        for place, row in enumerate(rows):
            own = hashlib.sha256((row.input + batch).encode()).digest()
            text = f"{row.input[:20]}-{own.hex()[:8]}"
            yield Answer(place, Decoding.VALID, text, own[0] / 256)


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def entry(*arguments: Any) -> Any:
    left[0] -= 1
    if left[0] == 0:
        die()
    return entry_of(*arguments)


job.CatalogModel = Weightless  # type: ignore[assignment, misc]
job.device = SimpleNamespace(name=lambda: "none")  # type: ignore[assignment]
writing._entry = entry
if after := os.environ.get("DIE_AFTER"):
    timer = threading.Timer(float(after), die)
    timer.daemon = True
    timer.start()
raise SystemExit(jobs.execute(jobs.RunDirectory(Path(sys.argv[1]))))
