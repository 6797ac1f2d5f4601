"""Write a folder as a whole: a reader never sees half of one.

A new folder is filled beside its place and renamed. One that replaces another steps in by
two renames, the old one aside and the new one in, so that at any instant one of the two is
whole; ``put_back`` undoes the first where a process was killed between them.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

from converters.errors import ConversionError
from converters.files import UMASK, as_storage_error, storage_errors, sync_folder


@contextlib.contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """Yield a temporary folder beside ``target`` that becomes ``target`` on success.

    What processes left beside it when they were killed, of whatever target, is removed.

    Raises:
        ConversionError: ``target`` holds files already.
        StorageError: it cannot be written.
    """
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ConversionError(
            f"{target} already exists; give another folder or remove it first."
        )
    with storage_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        _remove_orphans(target.parent)
        prefix = f".{target.name}.{_host()}.{os.getpid()}."
        temporary = Path(tempfile.mkdtemp(prefix=prefix, dir=target.parent))
        with _removed_on_failure(temporary):
            yield temporary
            # mkdtemp makes a private folder; a model folder is an ordinary one.
            temporary.chmod(0o777 & ~UMASK)
            if target.exists():
                target.rmdir()
            swap_in(temporary, target)


@contextlib.contextmanager
def replaced_folder(target: Path) -> Iterator[Path]:
    """Yield an empty folder that takes the place of ``target`` on success.

    Raises:
        StorageError: it cannot be written; the old one stays.
    """
    temporary = hidden(target, "partial")
    with storage_errors(temporary):
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        with _removed_on_failure(temporary):
            yield temporary
            swap_in(temporary, target)


def swap_in(folder: Path, target: Path) -> None:
    """Flush ``folder`` to disk and give it the name ``target``; what had it is removed."""
    for path in folder.iterdir():
        sync_folder(path)
    sync_folder(folder)
    retired = hidden(target, "old")
    if target.exists():
        shutil.rmtree(retired, ignore_errors=True)
        target.rename(retired)
    folder.rename(target)
    sync_folder(target.parent)
    shutil.rmtree(retired, ignore_errors=True)


def put_back(target: Path) -> None:
    """Undo the first rename of ``swap_in`` if the second was never made.

    Raises:
        StorageError: it cannot be renamed.
    """
    retired = hidden(target, "old")
    with storage_errors(target):
        if retired.exists() and not target.exists():
            retired.rename(target)


def hidden(path: Path, suffix: str) -> Path:
    """The hidden neighbour of ``path``: ``.<name>.<suffix>``."""
    return path.with_name(f".{path.name}.{suffix}")


def check_space(target: Path, needed: int) -> None:
    """Refuse to begin what the disk cannot hold.

    Args:
        target: the folder that will be written; it need not exist yet.
        needed: bytes.

    Raises:
        ConversionError: fewer bytes are free.
    """
    existing = next(path for path in (target, *target.absolute().parents) if path.exists())
    free = shutil.disk_usage(existing).free
    if needed > free:
        raise ConversionError(
            f"{target} needs {needed / 1e9:.2f} GB, but {free / 1e9:.2f} GB are free on its "
            "disk; free some space or choose another folder."
        )


@contextlib.contextmanager
def _removed_on_failure(temporary: Path) -> Iterator[None]:
    try:
        with _array_errors(temporary):
            yield
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


@contextlib.contextmanager
def _array_errors(folder: Path) -> Iterator[None]:
    """mlx reports a failed write without the reason; find it out with a write of our own."""
    try:
        yield
    except RuntimeError as error:
        if "Unable to write" not in str(error):
            raise
        written = max((p.stat().st_size for p in folder.iterdir()), default=0)
        try:
            with (folder / "probe").open("wb") as stream:
                stream.write(bytes(written + (1 << 20)))
        except OSError as reason:
            raise as_storage_error(folder, reason) from error
        # There is space again, or the file system gave no reason: both may pass.
        raise as_storage_error(folder, OSError(errno.ENOSPC, str(error))) from error


def _remove_orphans(folder: Path) -> None:
    """Remove the temporary folders in ``folder`` whose process is gone from this machine."""
    ours = re.compile(rf"\..+\.{re.escape(_host())}\.(\d+)\.[a-z0-9_]{{8}}")
    for path in folder.iterdir():
        match = ours.fullmatch(path.name)
        if match and not _alive(int(match[1])):
            shutil.rmtree(path, ignore_errors=True)


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def _host() -> str:
    return socket.gethostname().replace(".", "-") or "localhost"
