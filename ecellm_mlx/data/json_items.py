"""JSON values of a file, each with its line: JSON Lines, or one JSON list.

Knows nothing of rows. What cannot be parsed becomes a ``Finding`` in its place, so
that a reader learns of all bad lines at once.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ecellm_mlx.errors import DataError

SUFFIXES = (".jsonl", ".json")
BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class Finding:
    """Something about one line of a file; line 0 is the file as a whole."""

    line: int
    what: str
    got: str = ""
    expected: str = ""
    cure: str = ""

    @staticmethod
    def of(line: int, error: DataError) -> Finding:
        """What an error says, of a line that it does not name."""
        return Finding(line, error.what, error.got, error.expected, error.cure)

    def error(self, path: Path, others: int = 0) -> DataError:
        """The error to raise for it, which tells how many ``others`` there are."""
        cure = self.cure
        if others:
            more = f"{others} more {'row has an error' if others == 1 else 'rows have errors'}"
            cure = f"{cure or 'correct it'} (and {more}: `ecellm data check {path}` lists them)"
        return DataError.at(
            path, self.line, self.what, got=self.got, expected=self.expected, cure=cure
        )


def items(path: Path) -> Iterator[tuple[int, Any]]:
    """(line, JSON value) pairs; a ``Finding`` stands for what cannot be parsed.

    Raises:
        DataError: ``path`` is missing, no file, or has another ending than ``SUFFIXES``.
    """
    if path.is_dir():
        raise DataError(
            f"{path}: is a folder", expected="a file of rows", cure="name a file in it"
        )
    if path.suffix.lower() not in SUFFIXES:
        raise DataError(
            f"{path}: is not a file of rows",
            got=path.suffix or "a name without an ending",
            expected="a .jsonl or .json file",
            cure="turn a table into rows with `ecellm data import`",
        )
    try:
        with path.open("rb") as stream:
            if path.suffix.lower() == ".json" and _starts_list(stream.read(4096)):
                stream.seek(0)
                yield from _list_items(stream.read())
                return
            stream.seek(0)
            for line, raw in enumerate(stream, start=1):
                # Bytes are split at \n only: JSON may hold U+2028, which is no line break.
                text = _decode(raw.removeprefix(BOM) if line == 1 else raw, line)
                if isinstance(text, Finding):
                    yield line, text
                elif text.strip():
                    yield line, _parse_line(text, line)
    except OSError as error:
        raise unreadable(path, error) from error


def _starts_list(head: bytes) -> bool:
    return head.removeprefix(BOM).lstrip().startswith(b"[")


def _list_items(raw: bytes) -> Iterator[tuple[int, Any]]:
    """The entries of one JSON list, each with the line that it starts on."""
    text = _decode(raw.removeprefix(BOM), 1)
    if isinstance(text, Finding):
        yield text.line, text
        return
    decoder = json.JSONDecoder()
    position = _skip_space(text, text.index("[") + 1)
    line, counted = 1, 0
    after_comma = False
    while after_comma or text[position : position + 1] != "]":
        line += text.count("\n", counted, position)
        counted = position
        try:
            value, position = decoder.raw_decode(text, position)
        except (ValueError, RecursionError) as error:
            line = error.lineno if isinstance(error, json.JSONDecodeError) else line
            yield line, _malformed(error, line)
            return
        yield line, value
        position = _skip_space(text, position)
        after_comma = text[position : position + 1] == ","
        if after_comma:
            position = _skip_space(text, position + 1)
        elif text[position : position + 1] != "]":
            line += text.count("\n", counted, position)
            yield (
                line,
                Finding(line, "malformed JSON list", expected="',' or ']' after an entry"),
            )
            return
    if text[position + 1 :].strip():
        line += text.count("\n", counted, position)
        yield line, Finding(line, "malformed JSON list", got="text after its closing ]")


def _skip_space(text: str, position: int) -> int:
    while text[position : position + 1] in (" ", "\t", "\r", "\n"):
        position += 1
    return position


def _decode(raw: bytes, line: int) -> str | Finding:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        start = raw.rfind(b"\n", 0, error.start) + 1
        return Finding(
            line + raw.count(b"\n", 0, error.start),
            "the file is not UTF-8",
            got=f"byte 0x{raw[error.start]:02X} at position {error.start - start + 1}",
            cure="save it as UTF-8, for example with `iconv -f WINDOWS-1252 -t UTF-8`",
        )


def _parse_line(text: str, line: int) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        return _malformed(error, line)


def _malformed(error: ValueError | RecursionError, line: int) -> Finding:
    if isinstance(error, json.JSONDecodeError):
        got = f"{error.msg[:1].lower()}{error.msg[1:]} at column {error.colno}"
    elif isinstance(error, RecursionError):
        got = "brackets nested too deeply"
    else:
        got = "a number with too many digits"
    return Finding(line, "malformed JSON", got=got, expected="one JSON object per row")


def unreadable(path: Path, error: OSError) -> DataError:
    """The ``DataError`` for ``error``, which happened while reading ``path``."""
    if isinstance(error, FileNotFoundError):
        return DataError(f"{path}: there is no such file", cure="check the path")
    return DataError(f"{path}: cannot be read", got=(error.strerror or str(error)).lower())
