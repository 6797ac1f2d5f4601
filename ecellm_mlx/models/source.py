"""Where the files of a pulled folder came from, and how to check them.

``.ecellm-source.json`` in a model folder names the repository, the revision that was
asked for, the commit it stood for, and each file with its size and checksum.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path

from ecellm_mlx.files import write_json

SOURCE = ".ecellm-source.json"


@dataclass(frozen=True)
class RemoteFile:
    """A file at one commit: its bytes and what the hub says to check them by.

    ``sha256`` is given for large files, ``git_sha1`` (git's name of the content) for
    the others.
    """

    path: str
    size: int
    sha256: str | None = None
    git_sha1: str | None = None

    def fits(self, local: Path) -> bool:
        """Whether ``local`` exists with the right size; its bytes are not read."""
        return local.is_file() and local.stat().st_size == self.size

    def problem(self, local: Path) -> str:
        """Why ``local`` is not this file, byte for byte; empty if it is."""
        if not local.is_file():
            return "it is missing"
        if not self.fits(local):
            return f"expected {self.size:,} bytes, got {local.stat().st_size:,}"
        expected = self.sha256 or self.git_sha1
        if expected is None:
            return ""
        digest = _digest(local, git=self.sha256 is None)
        return "" if digest == expected else f"expected checksum {expected}, got {digest}"


@dataclass(frozen=True)
class Source:
    """The content of ``.ecellm-source.json``."""

    repo: str
    requested: str
    commit: str
    files: tuple[RemoteFile, ...]

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)

    def whole(self, folder: Path) -> bool:
        """Whether every file is in ``folder`` with its size."""
        return all(file.fits(folder / file.path) for file in self.files)

    def shares(self, file: RemoteFile, other: Source | None) -> bool:
        """Whether ``file`` of this source is also one of ``other``, byte for byte."""
        if other is None or file not in other.files:
            return False
        return self.commit == other.commit or bool(file.sha256 or file.git_sha1)


def read_source(folder: Path) -> Source | None:
    """Where the model in ``folder`` was pulled from; None if it was not pulled."""
    try:
        value = json.loads((folder / SOURCE).read_text(encoding="utf-8"))
        files = tuple(RemoteFile(**file) for file in value.pop("files"))
        return Source(**value, files=files)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def write_source(folder: Path, source: Source) -> None:
    """Record ``source`` in ``folder``."""
    write_json(folder / SOURCE, asdict(source))


def _digest(path: Path, *, git: bool) -> str:
    """SHA-256 of a file, or the SHA-1 by which git names it."""
    digest = hashlib.sha1(usedforsecurity=False) if git else hashlib.sha256()
    if git:
        digest.update(b"blob %d\0" % path.stat().st_size)
    with path.open("rb") as stream:
        while chunk := stream.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()
