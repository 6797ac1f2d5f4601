"""Parquet: Arrow arrays are copied as they are, new columns stand beside them.

Read and written batch by batch. pyarrow is an extra, because it is larger than all else.

Memory stays flat only against pyarrow's defaults: it reads whole row groups ahead, by
several threads, and keeps what it freed.
"""

from __future__ import annotations

import contextlib
import datetime
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ecellm_mlx.errors import DataError, EcellmError
from ecellm_mlx.files import open_atomic
from ecellm_mlx.tables.base import BadRow, Column, Table, TableRow, Value, Writer

BATCH_ROWS = 1024
READ_BYTES = 64 * 1024
# A row group is written at whichever comes first.
GROUP_ROWS = 16 * 1024
GROUP_BYTES = 8 * 1024 * 1024


def arrow() -> Any:
    """The pyarrow module with its parquet part.

    Raises:
        EcellmError: it is not installed.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise EcellmError(
            "Parquet files need pyarrow, which is not installed",
            cure="run `pip install 'ecellm-mlx[parquet]'`",
        ) from None
    return pyarrow


class ParquetTable(Table):
    """A Parquet file.

    Raises:
        DataError: it is none, or has no column.
        EcellmError: pyarrow is not installed.
    """

    unit = "row"

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._arrow = arrow()
        with self._open() as file:
            self._schema = file.schema_arrow
            self._facts = {
                "format": "Parquet",
                "rows": str(file.metadata.num_rows),
                "row groups": str(file.metadata.num_row_groups),
            }
        self.header = list(self._schema.names)
        if not self.header:
            raise DataError(f"{path} has no columns", cure="export the table again")

    def facts(self) -> dict[str, str]:
        """Rows, row groups, columns."""
        return {**self._facts, "columns": str(len(self.header))}

    def rows(self) -> Iterator[TableRow | BadRow]:
        """All rows; ``raw`` is the row's batch and its place in it."""
        number = 0
        with self._open() as file:
            for batch in file.iter_batches(batch_size=BATCH_ROWS, use_threads=False):
                columns = [map(as_text, column.to_pylist()) for column in batch.columns]
                for place, cells in enumerate(zip(*columns, strict=True)):
                    number += 1
                    yield TableRow(number, list(cells), (batch, place))
                self._arrow.default_memory_pool().release_unused()

    @contextlib.contextmanager
    def appender(
        self, out: Path, columns: Sequence[Column], *, as_utf8: bool = False
    ) -> Iterator[Writer]:
        """See ``Table``; rows must come whole and in order."""
        pa = self._arrow
        schema = self._schema
        for column in columns:
            kind = pa.float64() if column.numeric else pa.string()
            schema = schema.append(pa.field(column.name, kind))
        with open_atomic(out) as stream, pa.parquet.ParquetWriter(stream, schema) as file:
            writer = _Appender(pa, Groups(pa, file), schema, columns)
            yield writer
            writer.finish()

    @contextlib.contextmanager
    def _open(self) -> Iterator[Any]:
        try:
            file = self._arrow.parquet.ParquetFile(
                self.path, pre_buffer=False, buffer_size=READ_BYTES
            )
        except (self._arrow.ArrowException, OSError) as error:
            raise DataError(
                f"{self.path} is no Parquet file that can be read",
                got=str(error).split("\n")[0].rstrip("."),
                cure="export it again",
            ) from None
        with file:
            yield file


class Groups:
    """Gathers record batches into row groups of a fair size."""

    def __init__(self, pa: Any, file: Any) -> None:
        self._arrow, self._file = pa, file
        self._waiting: list[Any] = []

    def add(self, batch: Any) -> None:
        """Take a batch; write a row group when there is enough for one."""
        self._waiting.append(batch)
        rows = sum(b.num_rows for b in self._waiting)
        if rows >= GROUP_ROWS or sum(b.nbytes for b in self._waiting) >= GROUP_BYTES:
            self.flush()

    def flush(self) -> None:
        """Write what is waiting."""
        if self._waiting:
            self._file.write_table(self._arrow.Table.from_batches(self._waiting))
            self._waiting.clear()
            self._arrow.default_memory_pool().release_unused()


class _Appender(Writer):
    def __init__(self, pa: Any, groups: Groups, schema: Any, columns: Sequence[Column]) -> None:
        self._arrow, self._groups, self._schema, self._columns = pa, groups, schema, columns
        self._batch: Any = None
        self._values: list[Sequence[Value]] = []

    def write(self, row: TableRow, values: Sequence[Value]) -> None:
        batch, _ = row.raw
        if batch is not self._batch:
            self._complete()
            self._batch = batch
        self._values.append(values)

    def finish(self) -> None:
        """Write the rest."""
        self._complete()
        self._groups.flush()

    def _complete(self) -> None:
        """Add the batch whose values are complete."""
        if self._batch is None:
            return
        arrays = list(self._batch.columns)
        for place, column in enumerate(self._columns):
            kind = self._arrow.float64() if column.numeric else self._arrow.string()
            values = [row[place] if row[place] != "" else None for row in self._values]
            arrays.append(self._arrow.array(values, kind))
        self._groups.add(self._arrow.record_batch(arrays, schema=self._schema))
        self._batch, self._values = None, []


def as_text(value: Any) -> str:
    """An Arrow value as a cell."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, list | dict):
        return json.dumps(value, ensure_ascii=False, default=as_text)
    return str(value)
