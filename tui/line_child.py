"""A child process that answers requests, one JSON object a line each way.

For what must not run in the app: models (``ecellm_mlx.inference.session``) and
tokenizers, which hold the interpreter for longer than a keypress may wait. The child
ends with the app, because it ends with its stdin; when it ends by itself, the last
words of its stderr are told.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from typing import Any

from ecellm_mlx.jobs import give_way

TAIL_BYTES = 4000

Said = Callable[[dict[str, Any]], object]
Ended = Callable[[int, str], object]


class LineChild:
    """Starts ``python -m MODULE``.

    Args:
        module: what to run.
        said: called with each event, in a thread of the child's own.
        ended: called once, with the exit status and the last words on stderr, unless
            the app ended the child itself.

    Raises:
        OSError: the process cannot be started, or there is no room for its stderr.
    """

    def __init__(self, module: str, said: Said, ended: Ended) -> None:
        self._said, self._ended = said, ended
        self._count = 0
        self._closing = False
        self._writing = threading.Lock()
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the child
        self._process = subprocess.Popen(
            [sys.executable, "-m", module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            text=True,
            encoding="utf-8",
        )
        give_way(self._process.pid)
        threading.Thread(target=self._listen, daemon=True, name=module).start()

    @property
    def pid(self) -> int:
        """The child's process."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether it can take requests."""
        return not self._closing and self._process.poll() is None

    def send(self, **request: Any) -> int:
        """Send a request; returns the id that its events will have."""
        self._count += 1
        self._write({"id": self._count, **request})
        return self._count

    def cancel(self, request: int) -> None:
        """Ask for a request to end early."""
        self._write({"op": "cancel", "id": request})

    def end(self) -> None:
        """Let the child go."""
        self._closing = True
        with contextlib.suppress(OSError, ValueError):
            if self._process.stdin:
                self._process.stdin.close()
        with contextlib.suppress(ProcessLookupError):
            self._process.terminate()

    def _write(self, request: dict[str, Any]) -> None:
        # A child that has just died is reported by the thread that listens to it.
        with self._writing, contextlib.suppress(OSError, ValueError):
            assert self._process.stdin is not None
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as stream:
            for line in stream:
                with contextlib.suppress(ValueError):
                    self._said(json.loads(line))
        code = self._process.wait()
        with contextlib.suppress(OSError, ValueError):
            if self._process.stdin:
                self._process.stdin.close()
        with self._stderr as stderr:
            stderr.seek(0, 2)
            stderr.seek(max(0, stderr.tell() - TAIL_BYTES))
            words = stderr.read().decode("utf-8", errors="replace").strip()
        if not self._closing:
            self._ended(code, words)
