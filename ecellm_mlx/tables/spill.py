"""A list of texts on disk: append, then index. Memory does not grow with it."""

from __future__ import annotations

import struct
import tempfile

ENTRY = struct.Struct("<QQ")


class TextList:
    """Texts in temporary files; to be used in a ``with`` block."""

    def __init__(self) -> None:
        self._texts = tempfile.TemporaryFile()  # noqa: SIM115 - closed by __exit__
        # Where each text begins and ends.
        self._places = tempfile.TemporaryFile()  # noqa: SIM115 - closed by __exit__
        self._count = self._size = 0
        self._appending = True

    def __enter__(self) -> TextList:
        return self

    def __exit__(self, *_: object) -> None:
        self._texts.close()
        self._places.close()

    def __len__(self) -> int:
        return self._count

    def append(self, text: str) -> None:
        """Add a text at the end."""
        if not self._appending:
            self._texts.seek(0, 2)
            self._places.seek(0, 2)
            self._appending = True
        data = text.encode("utf-8", "surrogatepass")
        self._texts.write(data)
        self._places.write(ENTRY.pack(self._size, self._size + len(data)))
        self._size += len(data)
        self._count += 1

    def __getitem__(self, index: int) -> str:
        if not 0 <= index < self._count:
            raise IndexError(f"text {index} of {self._count}")
        self._appending = False
        self._places.seek(index * ENTRY.size)
        start, end = ENTRY.unpack(self._places.read(ENTRY.size))
        self._texts.seek(start)
        return self._texts.read(end - start).decode("utf-8", "surrogatepass")
