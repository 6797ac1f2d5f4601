"""What the ending of a file's name says: its format, and whether it is packed.

Text tables may be packed by gzip (``.csv.gz``); they are unpacked while they are read and
packed again when they are written. Knows nothing of rows.
"""

from __future__ import annotations

import contextlib
import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, cast

from ecellm_mlx.errors import DataError
from ecellm_mlx.files import open_atomic

COMMA, TAB = (".csv", ".txt"), (".tsv", ".tab")
DELIMITED = (*COMMA, *TAB)
JSON_LINES = (".jsonl", ".ndjson")
JSON = (*JSON_LINES, ".json")
WORKBOOKS = (".xlsx", ".xlsm")
PACKED = ".gz"
READABLE = (*DELIMITED, *JSON, ".parquet", *WORKBOOKS, ".xml")
# Macros and feeds are only ever copied: there is nothing to make new ones of.
WRITABLE = (*DELIMITED, *JSON, ".parquet", ".xlsx")


def ending(path: Path) -> str:
    """The ending that names the format, in small letters: ``.csv`` of ``shop.CSV.gz``."""
    name = path.name.lower()
    kind = Path(name.removesuffix(PACKED)).suffix
    return kind if kind in (*DELIMITED, *JSON) or not is_packed(path) else PACKED


def is_packed(path: Path) -> bool:
    """Whether the name says that gzip packed the file."""
    return path.name.lower().endswith(PACKED)


def family(path: Path) -> str:
    """One ending for all that are written in the same way."""
    kind = ending(path)
    for alike in (COMMA, TAB, JSON_LINES):
        if kind in alike:
            return alike[0]
    return kind


def unknown(path: Path, known: tuple[str, ...] = READABLE) -> DataError:
    """The error for a file whose ending names none of the ``known`` formats."""
    return DataError(
        f"{path} is no table of a known format",
        got=path.suffix or "a name without an ending",
        expected=f"{', '.join(known[:-1])} or {known[-1]}",
        cure="export it as CSV" if known is READABLE else "name another file",
    )


@contextlib.contextmanager
def opened(path: Path) -> Iterator[IO[bytes]]:
    """The unpacked bytes of a file.

    Raises:
        DataError: it is called packed and is not, or ends too early.
    """
    if not is_packed(path):
        with path.open("rb") as plain:
            yield plain
        return
    try:
        with gzip.open(path) as stream:
            yield cast(IO[bytes], stream)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(
            f"{path} cannot be unpacked", got=str(error), cure="download or pack it again"
        ) from None


@contextlib.contextmanager
def created(path: Path) -> Iterator[IO[bytes]]:
    """A stream that replaces ``path`` when the block ends well, packed if its name says so."""
    with open_atomic(path) as stream:
        if not is_packed(path):
            yield stream
            return
        # Neither time nor name: the same rows give the same file.
        with gzip.GzipFile(filename="", mode="wb", fileobj=stream, mtime=0) as packed:
            yield cast(IO[bytes], packed)
