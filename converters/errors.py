"""The root of all errors that reach a user, and those that work on files.

``ecellm_mlx.errors`` draws the whole tree and is where the engine takes them from; they
are declared here because this package imports nothing of the engine.
"""

from __future__ import annotations

from typing import TypeVar

Retold = TypeVar("Retold", bound="EcellmError")


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
        details = ", ".join(
            part
            for part in (
                f"expected {self.expected}" if self.expected else "",
                f"got {self.got}" if self.got else "",
            )
            if part
        )
        text = f"{self.what}: {details}" if details else self.what
        return (f"{text}; {self.cure}" if self.cure else text).rstrip(".") + "."

    def retold(self, kind: type[Retold]) -> Retold:
        """The same sentence as an error of another kind."""
        return kind(self.what, got=self.got, expected=self.expected, cure=self.cure)


class ConversionError(EcellmError):
    """A file that is damaged, or that holds what the target format cannot represent.

    The message is one sentence that names the file or tensor and the cure.
    """


class StorageError(EcellmError):
    """A folder that cannot be written."""


class DiskFullError(StorageError):
    """No space is left, or a quota or size limit is reached; it may work later."""
