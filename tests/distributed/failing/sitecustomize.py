"""First on ``PYTHONPATH``, this ends rank 1 in its third batch."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable

if os.environ.get("MLX_RANK") == "1":
    from ecellm_mlx.catalog.journal import Entry, Journal

    batches = 0
    add = Journal.add

    def dying(self: Journal, entries: Iterable[Entry]) -> None:
        global batches
        batches += 1
        if batches == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        add(self, entries)

    Journal.add = dying  # type: ignore[method-assign]
