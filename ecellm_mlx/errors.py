"""Errors that reach a user.

    EcellmError                 exit status 1
    ├── UsageError              exit status 2: the command itself is wrong
    ├── DataError               a file of rows: names the file and the line
    ├── ModelError              a model folder, a GGUF, a tokenizer
    ├── AdapterError            an adapter that does not fit its base
    ├── RecipeError             settings that contradict each other (all of them at once)
    ├── HubError                pull and push
    ├── JobError                a run directory or its process
    └── StorageError            a folder that cannot be written
        └── DiskFullError       no space, a quota or a size limit: may work later

Each says what happened, what was found, what was expected and what to do next,
in one sentence. A traceback is shown only with ``--debug``.
"""

from __future__ import annotations

from pathlib import Path


class EcellmError(Exception):
    """A failure that the user can act on.

    Args:
        what: what went wrong, naming the file, option or tensor.
        got: what was found instead of the expected thing.
        expected: what would have been accepted.
        cure: the next step, as an imperative.
    """

    exit_status = 1

    def __init__(self, what: str, *, got: str = "", expected: str = "", cure: str = "") -> None:
        self.what = what
        self.got = got
        self.expected = expected
        self.cure = cure
        super().__init__(self.sentence())

    def sentence(self) -> str:
        """All parts as one sentence that ends with the cure."""
        found = ", ".join(
            part
            for part in (
                f"expected {self.expected}" if self.expected else "",
                f"got {self.got}" if self.got else "",
            )
            if part
        )
        text = f"{self.what}: {found}" if found else self.what
        return (f"{text}; {self.cure}" if self.cure else text).rstrip(".") + "."


class UsageError(EcellmError):
    """The command line asks for something that does not exist or contradicts itself."""

    exit_status = 2


class DataError(EcellmError):
    """Rows that cannot be read or used."""

    @classmethod
    def at(
        cls,
        path: Path,
        line: int,
        what: str,
        *,
        got: str = "",
        expected: str = "",
        cure: str = "",
    ) -> DataError:
        """An error at one line of a file, written ``file:line: what``."""
        return cls(f"{path}:{line}: {what}", got=got, expected=expected, cure=cure)


class ModelError(EcellmError):
    """A model that is missing, damaged or of an unknown kind."""


class AdapterError(EcellmError):
    """An adapter that is damaged or belongs to another base model."""


class RecipeError(EcellmError):
    """Training settings that are unknown, of the wrong type or contradictory."""


class HubError(EcellmError):
    """A download or an upload that did not complete."""


class JobError(EcellmError):
    """A run directory that cannot be used, or a process that cannot be reached."""


class StorageError(EcellmError):
    """A folder that cannot be written."""


class DiskFullError(StorageError):
    """No space is left, or a quota or size limit is reached; it may work later."""
