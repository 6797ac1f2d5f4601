"""Texts before which a free answer ends, while the answer is still being written."""

from __future__ import annotations

from collections.abc import Sequence

from ecellm_mlx.errors import UsageError


class Stops:
    """Looks for the first of several texts; false if there are none.

    Raises:
        UsageError: an empty text, which is found everywhere.
    """

    def __init__(self, texts: Sequence[str]) -> None:
        if "" in texts:
            raise UsageError("a stop text is empty", expected="at least one character")
        self._texts = tuple(texts)

    def __bool__(self) -> bool:
        return bool(self._texts)

    def reached(self, text: str) -> bool:
        """Whether one of them is in ``text``."""
        return any(stop in text for stop in self._texts)

    def cut(self, text: str) -> str:
        """``text`` before the first of them."""
        return text[: min((p for s in self._texts if (p := text.find(s)) >= 0), default=None)]

    def settled(self, text: str) -> str:
        """``text`` without an end that may turn out to be the beginning of one of them."""
        for length in range(min(len(text), max(map(len, self._texts), default=1) - 1), 0, -1):
            if any(stop.startswith(text[-length:]) for stop in self._texts):
                return text[:-length]
        return text
