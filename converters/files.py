"""Durable file writes: a reader sees the old content or the new, never a part.

Knows nothing of what it writes. Raises ``StorageError`` for everything that a
disk or a permission can do wrong.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import glob
import json
import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from converters.errors import ConversionError, DiskFullError, StorageError

# It can only be read by setting it, which threads must not see.
UMASK = os.umask(0)
os.umask(UMASK)


@contextlib.contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turn an ``OSError`` on ``path`` into a ``StorageError`` with its cure."""
    try:
        yield
    except OSError as error:
        raise as_storage_error(path, error) from error


def as_storage_error(path: Path, error: OSError) -> StorageError:
    """The ``StorageError`` for ``error``, which happened while writing ``path``."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DiskFullError(f"{path}: the disk is full", cure="free some space and try again")
    if error.errno == errno.EFBIG:
        return DiskFullError(
            f"{path}: files of this size are not allowed here",
            cure="raise the limit (`ulimit -f`), or choose another folder with --out",
        )
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return StorageError(
            f"{path}: cannot be written",
            got=os.strerror(error.errno or 0).lower(),
            cure="choose another folder with --out, or change its permissions",
        )
    if error.errno in (errno.ENOTDIR, errno.EEXIST, errno.EISDIR):
        return StorageError(
            f"{path}: a file stands where a folder is needed, or the other way round",
            cure="choose another path",
        )
    return StorageError(
        f"{path}: {os.strerror(error.errno or 0) or error}", cure="check the path"
    )


def ensure_folder(path: Path) -> Path:
    """Create ``path`` with its parents and prove that it can be written to."""
    with storage_errors(path):
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            return path


def sync_folder(path: Path) -> None:
    """Flush a file, or a folder's entries, to disk, so that they survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        sync_descriptor(descriptor)
    finally:
        os.close(descriptor)


def sync_descriptor(descriptor: int) -> None:
    """Flush an open file to disk, also through a drive's own cache on macOS."""
    full = getattr(fcntl, "F_FULLFSYNC", None)
    if full is not None:
        # Network volumes do not know it; there fsync is all there is.
        with contextlib.suppress(OSError):
            fcntl.fcntl(descriptor, full)
            return
    os.fsync(descriptor)


@contextlib.contextmanager
def open_atomic(path: Path) -> Iterator[IO[bytes]]:
    """A stream that replaces ``path`` when the block ends well: fsync, rename."""
    with storage_errors(path):
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        temporary = Path(name)
        try:
            with os.fdopen(descriptor, "wb") as stream:
                os.fchmod(descriptor, _mode(path))
                yield stream
                stream.flush()
                sync_descriptor(stream.fileno())
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        sync_folder(path.parent)


def _mode(path: Path) -> int:
    """The permissions that ``path`` has, or that any new file gets; mkstemp's are private."""
    try:
        return stat.S_IMODE(path.stat().st_mode)
    except OSError:
        return 0o666 & ~UMASK


def remove_torn(path: Path) -> None:
    """Remove what writers of ``path`` that were killed left beside it.

    Nobody may be writing ``path`` meanwhile.
    """
    for torn in path.parent.glob(f".{glob.escape(path.name)}.????????"):
        torn.unlink(missing_ok=True)


def write_atomic(path: Path, content: str | bytes) -> None:
    """Replace ``path`` by ``content``: temporary file beside it, fsync, rename."""
    with open_atomic(path) as stream:
        stream.write(content.encode() if isinstance(content, str) else content)


def write_json(path: Path, value: Any) -> None:
    """``write_atomic`` of ``value`` as indented JSON. NaN is refused, not written."""
    write_atomic(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        ConversionError: the file is missing, not JSON, or no object.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConversionError(f"{path} is missing; check the folder.") from None
    except (OSError, ValueError) as error:
        raise ConversionError(f"{path} cannot be read: {error}; copy it again.") from None
    if not isinstance(value, dict):
        raise ConversionError(f"{path} must hold a JSON object; copy it again.")
    return value
