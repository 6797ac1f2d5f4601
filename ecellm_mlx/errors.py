"""Errors that reach a user.

    EcellmError                 exit status 1
    ├── UsageError              exit status 2: the command itself is wrong
    ├── DataError               a file of rows: names the file and the line
    ├── ModelError              a model folder, a GGUF, a tokenizer
    ├── AdapterError            an adapter that does not fit its base
    ├── RecipeError             settings that contradict each other (all of them at once)
    ├── ConversionError         a file that cannot be translated into another format
    ├── HubError                pull and push
    ├── JobError                a run directory or its process
    └── StorageError            a folder that cannot be written
        └── DiskFullError       no space, a quota or a size limit: may work later

Each says what happened, what was found, what was expected and what to do next,
in one sentence. A traceback is shown only with ``--debug``. The root and the errors of
files are declared in ``converters.errors``, below the engine.
"""

from __future__ import annotations

from pathlib import Path

from converters.errors import ConversionError, DiskFullError, EcellmError, StorageError

__all__ = [
    "AdapterError",
    "ConversionError",
    "DataError",
    "DiskFullError",
    "EcellmError",
    "HubError",
    "JobError",
    "ModelError",
    "RecipeError",
    "StorageError",
    "UsageError",
]


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
