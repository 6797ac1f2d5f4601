"""A training order: what the Train form says, and the command that says the same."""

from __future__ import annotations

import shlex
from dataclasses import dataclass


@dataclass(frozen=True)
class TrainOrder:
    """Arguments of ``ecellm train``. An empty ``recipe`` means the defaults."""

    model: str
    data: str
    recipe: str = ""
    overrides: tuple[str, ...] = ()

    def command(self) -> str:
        """The command line, quoted for a shell; what is still missing is in capitals."""
        return shlex.join(["ecellm", "train", *self._options()])

    def plan(self) -> list[str]:
        """The words after ``ecellm`` that predict what this order will need."""
        return ["plan", *self._options(), "--json"]

    def _options(self) -> list[str]:
        words = ["--model", self.model or "MODEL", "--data", self.data or "DATA"]
        if self.recipe:
            words += ["--recipe", self.recipe]
        for override in self.overrides:
            words += ["--set", override]
        return words
