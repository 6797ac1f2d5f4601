"""One process at a time owns a run, a study, or a folder that is being pulled.

The lock is the system's own (``flock``) on a file that also says who holds it. The
system releases it however the process ends, so a lock cannot stay behind, and a
pid that was given to another process since means nothing. On a volume that other
machines can reach, whose locks this system may not see, a holder elsewhere is respected
as the file names it. On file systems without ``flock`` the pid and its start time decide.

The ``filelock`` package holds such locks as well. It does not say who does, cannot ask
without taking the lock, leaves its file behind and drops a dead holder on file systems
without ``flock`` in its latest versions only, so that it would replace a third of this.
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
# Beginnings of the names of file systems that reach over a network or into a machine
# that this one hosts.
SHARED = (
    "9p", "afp", "afs", "beegfs", "ceph", "cifs", "cvmfs", "davfs", "drvfs", "fuse", "gfs",
    "gluster", "gpfs", "lustre", "macfuse", "ncp", "nfs", "ocfs", "osxfuse", "prl_fs", "smb",
    "sshfs", "vboxsf", "virtiofs", "vmhgfs", "webdav",
)  # fmt: skip
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
        named = _read(descriptor)
        if not is_here(path, named.host):
            return named
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in NO_FLOCK:
                return named if lives(named.pid, named.started) else None
            return named
        return None
    finally:
        os.close(descriptor)


def is_here(path: Path, host: str) -> bool:
    """Whether a process of ``host`` that wrote ``path`` ran on this machine.

    A laptop's name changes with the network it is in, so the name decides only on volumes
    that other machines can reach.
    """
    return host == socket.gethostname() or not _is_shared(path)


def _is_shared(path: Path) -> bool:
    """Whether ``path`` lies on a volume that other machines may write to, too."""
    path = path.resolve()
    volumes = {Path(disk.mountpoint): disk.fstype for disk in psutil.disk_partitions(all=True)}
    kind = next((volumes[p] for p in (path, *path.parents) if p in volumes), "").lower()
    return kind.startswith(SHARED)


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
            locked = _lock(descriptor, path) and _is_still(descriptor, path)
            named = _read(descriptor)
            if locked:
                if not is_here(path, named.host):
                    raise HeldError(named)
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)
        if time.monotonic() > deadline:
            raise HeldError(named)
        time.sleep(0.02)


def _lock(descriptor: int, path: Path) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in NO_FLOCK:
            named = _read(descriptor)
            return not (is_here(path, named.host) and lives(named.pid, named.started))
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
