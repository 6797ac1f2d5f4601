"""Files and folders that are whole at any time: how the engine writes.

They are declared in ``converters``, below the engine, because converters write as well.
"""

from __future__ import annotations

from converters.files import (
    UMASK,
    as_storage_error,
    ensure_folder,
    open_atomic,
    read_json,
    remove_torn,
    storage_errors,
    sync_descriptor,
    sync_folder,
    write_atomic,
    write_json,
)
from converters.folders import (
    check_space,
    hidden,
    new_folder,
    put_back,
    replaced_folder,
    swap_in,
)

__all__ = [
    "UMASK",
    "as_storage_error",
    "check_space",
    "ensure_folder",
    "hidden",
    "new_folder",
    "open_atomic",
    "put_back",
    "read_json",
    "remove_torn",
    "replaced_folder",
    "storage_errors",
    "swap_in",
    "sync_descriptor",
    "sync_folder",
    "write_atomic",
    "write_json",
]
