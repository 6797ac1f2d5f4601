"""First on ``PYTHONPATH``, this ends rank 1 in its third batch."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable

if os.environ.get("MLX_RANK") == "1":
    from ecellm_mlx.catalog.journal import CatalogJournal, Entry

    batches = 0
    add = CatalogJournal.add

    def dying(self: CatalogJournal, entries: Iterable[Entry]) -> None:
        global batches
        batches += 1
        if batches == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        add(self, entries)

    CatalogJournal.add = dying  # type: ignore[method-assign]
