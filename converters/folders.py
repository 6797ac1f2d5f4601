"""Write a result folder as a whole: a reader never sees half of one."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import shutil
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from converters.errors import ConversionError


@contextlib.contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """Yield a temporary folder beside ``target`` that becomes ``target`` on success.

    What processes left beside it when they were killed, of whatever target, is removed.

    Raises:
        ConversionError: ``target`` holds files already, or cannot be written.
    """
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ConversionError(
            f"{target} already exists; give another folder or remove it first."
        )
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _remove_orphans(target.parent)
        prefix = f".{target.name}.{_host()}.{os.getpid()}."
        temporary = Path(tempfile.mkdtemp(prefix=prefix, dir=target.parent))
    except OSError as error:
        raise _unwritable(target, error) from error
    try:
        yield temporary
        for path in temporary.iterdir():
            _sync(path)
        # mkdtemp makes a private folder; a model folder is an ordinary one.
        temporary.chmod(0o777 & ~_umask())
        if target.exists():
            target.rmdir()
        temporary.rename(target)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise _unwritable(target, error) from error
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


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


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as indented JSON."""
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


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


def _unwritable(target: Path, error: OSError) -> ConversionError:
    if error.errno == errno.ENOSPC:
        return ConversionError(f"{target}: the disk is full; free some space and try again.")
    return ConversionError(
        f"{target} cannot be written: {(error.strerror or str(error)).lower()}; "
        "choose another folder."
    )


def _remove_orphans(folder: Path) -> None:
    """Remove the temporary folders in ``folder`` whose process is gone from this machine."""
    ours = re.compile(rf"\..+\.{re.escape(_host())}\.(\d+)\.[a-z0-9_]{{8}}")
    for path in folder.iterdir():
        found = ours.fullmatch(path.name)
        if found and not _alive(int(found[1])):
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


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
