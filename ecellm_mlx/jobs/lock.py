"""One process at a time owns a run.

The lock is the system's own (``flock``) on a file that also says who holds it. The
system releases it however the process ends, so a lock cannot stay behind, and a
pid that was given to another process since means nothing. A holder on another
machine, whose lock this system may not see, is respected as the file names it. On
file systems without ``flock`` the pid and its start time decide.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from ecellm_mlx.files import storage_errors

NO_FLOCK = (errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK, errno.ENOSYS)
# ``owner`` holds a shared lock for microseconds; who wants the lock tries again.
PATIENCE_S = 0.5


@dataclass(frozen=True)
class Owner:
    """Who holds a lock. ``started`` is the process's start, seconds since the epoch."""

    pid: int
    host: str
    started: float | None = None


class HeldError(Exception):
    """Another process holds the lock."""

    def __init__(self, owner: Owner) -> None:
        super().__init__(owner)
        self.owner = owner


@contextlib.contextmanager
def hold(path: Path) -> Iterator[None]:
    """Hold the lock at ``path`` for the time of the block.

    Raises:
        HeldError: another live process holds it.
        StorageError: the file cannot be written.
    """
    descriptor = _acquire(path)
    try:
        with storage_errors(path):
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, json.dumps(asdict(myself())).encode(), 0)
        yield
    finally:
        # Unlinked while it is locked: who waits for it sees that the name is gone.
        path.unlink(missing_ok=True)
        os.close(descriptor)


def owner(path: Path) -> Owner | None:
    """The live holder of the lock at ``path``, or None."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        found = _read(descriptor)
        if found.host != socket.gethostname():
            return found
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in NO_FLOCK:
                return found if lives(found.pid, found.started) else None
            return found
        return None
    finally:
        os.close(descriptor)


def myself() -> Owner:
    """This process as the holder of a lock."""
    return Owner(os.getpid(), socket.gethostname(), psutil.Process().create_time())


def lives(pid: int, started: float | None) -> bool:
    """Whether process ``pid`` of this machine runs and is the one that began then."""
    try:
        process = psutil.Process(pid)
        same = started is None or abs(process.create_time() - started) < 1
        return same and process.status() != psutil.STATUS_ZOMBIE
    except (psutil.Error, ValueError):
        return False


def _acquire(path: Path) -> int:
    deadline = time.monotonic() + PATIENCE_S
    while True:
        with storage_errors(path):
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            if _lock(descriptor) and _is_still(descriptor, path):
                found = _read(descriptor)
                if found.host != socket.gethostname():
                    raise HeldError(found)
                return descriptor
            found = _read(descriptor)
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)
        if time.monotonic() > deadline:
            raise HeldError(found)
        time.sleep(0.02)


def _lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in NO_FLOCK:
            found = _read(descriptor)
            return not (found.host == socket.gethostname() and lives(found.pid, found.started))
        if error.errno in (errno.EAGAIN, errno.EACCES, errno.EWOULDBLOCK):
            return False
        raise
    return True


def _is_still(descriptor: int, path: Path) -> bool:
    """Whether ``path`` names the file that was locked, and not a newer one."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _read(descriptor: int) -> Owner:
    """What the file says; an empty or torn one belongs to nobody on this machine."""
    try:
        value = json.loads(os.pread(descriptor, 4096, 0))
        started = value.get("started")
        return Owner(
            int(value["pid"]), str(value["host"]), None if started is None else float(started)
        )
    except (ValueError, KeyError, TypeError, AttributeError):
        return Owner(0, socket.gethostname())
