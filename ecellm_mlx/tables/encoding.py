"""Which encoding a text table is in.

A byte order mark decides; else UTF-8 where the whole file is valid UTF-8, or nearly so (its
broken rows are rejected one by one). What is left is an old 8-bit or East Asian encoding:
charset-normalizer tells scripts apart, and within Latin script Windows-1252 is taken unless
the text is evidently in another language than a Western European one.
"""

from __future__ import annotations

import codecs
import re
from dataclasses import dataclass
from pathlib import Path

from ecellm_mlx.errors import DataError, UsageError
from ecellm_mlx.tables.endings import opened

BOMS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),  # before UTF-16, whose mark it starts with
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
CANDIDATES = (
    "cp1250", "cp1251", "cp1252", "cp1253", "cp1254", "cp1255", "cp1256", "cp1257", "koi8_r",
    "cp932", "euc_jp", "gb18030", "big5", "cp949",
)  # fmt: skip
# Latin-script encodings that charset-normalizer may prefer; only with a language's evidence.
OTHER_LATIN = {
    "cp1250": ("Czech", "Polish", "Hungarian", "Slovak", "Slovene", "Croatian", "Romanian"),
    "cp1254": ("Turkish",),
    "cp1257": ("Estonian", "Latvian", "Lithuanian"),
}
MIN_COHERENCE = 0.1
NON_ASCII = re.compile(rb"[\x80-\xff]+")
SCRIPT_RUN = 3
SAMPLE_BYTES = 64 * 1024
LINE_BYTES = 64 * 1024
# A file with this many valid lines for each broken one is UTF-8 with broken lines.
VALID_PER_BROKEN = 4
TITLES = {
    "utf-8": "UTF-8",
    "cp1252": "Windows-1252",
    "cp932": "Shift JIS (Windows-932)",
    "euc_jp": "EUC-JP",
    "koi8_r": "KOI8-R",
    "gb18030": "GB 18030",
    "big5": "Big5",
    "cp949": "Korean (Windows-949)",
}


@dataclass(frozen=True)
class Encoding:
    """``name`` is Python's; ``bom`` the byte order mark; ``source`` how it was found."""

    name: str
    bom: bytes = b""
    source: str = "given"

    @property
    def wide(self) -> bool:
        """Whether a character takes two or four bytes at least."""
        return self.name.startswith(("utf-16", "utf-32"))

    def __str__(self) -> str:
        title = TITLES.get(self.name) or (
            f"Windows-{self.name[2:]}" if self.name.startswith("cp") else self.name.upper()
        )
        mark = " with byte order mark" if self.bom else ""
        return f"{title}{mark} ({self.source})"


def given(path: Path, name: str) -> Encoding:
    """The encoding that the user names.

    Raises:
        UsageError: Python knows none of that name.
    """
    try:
        codec = codecs.lookup(name).name
    except LookupError:
        raise UsageError(
            f"--encoding {name} is unknown", expected="a name such as utf-8 or cp1252"
        ) from None
    codec = {"utf-8-sig": "utf-8", "utf_8_sig": "utf-8"}.get(codec, codec)
    with opened(path) as stream:
        head = stream.read(4)
    if codec in ("utf-16", "utf-32"):
        codec += "-be" if head.startswith((codecs.BOM_UTF16_BE, codecs.BOM_UTF32_BE)) else "-le"
    bom = next((mark for mark, of in BOMS if of == codec and head.startswith(mark)), b"")
    return Encoding(codec, bom)


def detect(path: Path) -> Encoding:
    """The encoding of a text file; reads all of it, in constant memory.

    Raises:
        DataError: it is no text.
    """
    with opened(path) as stream:
        head = stream.read(4096)
        for mark, name in BOMS:
            if head.startswith(mark):
                return Encoding(name, mark, "byte order mark")
        if b"\0" in head:
            return _wide(path, head)
        stream.seek(0)
        valid = broken = 0
        sample = bytearray()
        while line := stream.readline(LINE_BYTES):
            if line.isascii():
                continue
            try:
                line.decode("utf-8")
                valid += 1
            except UnicodeDecodeError:
                broken += 1
                if len(sample) < SAMPLE_BYTES:
                    sample += line
    if not broken:
        return Encoding("utf-8", source="valid throughout" if valid else "plain ASCII")
    if valid >= VALID_PER_BROKEN * broken:
        return Encoding("utf-8", source=f"{broken} lines are not valid")
    return _legacy(bytes(sample))


def _wide(path: Path, head: bytes) -> Encoding:
    """UTF-16 without a mark: every other byte of mostly Latin text is zero."""
    even, odd = head[::2].count(0), head[1::2].count(0)
    if max(even, odd) < 0.3 * len(head) / 2 or min(even, odd) > 0.1 * max(even, odd):
        raise DataError(
            f"{path} is no text table (it holds null bytes)", cure="export it as CSV in UTF-8"
        )
    return Encoding("utf-16-be" if even > odd else "utf-16-le", source="detected")


def _legacy(sample: bytes) -> Encoding:
    from charset_normalizer import from_bytes

    western = Encoding("cp1252", source="detected")
    best = from_bytes(sample, cp_isolation=list(CANDIDATES)).best()
    if best is None or best.encoding == "cp1252":
        return western
    if best.encoding in OTHER_LATIN:
        fits = best.language in OTHER_LATIN[best.encoding] and best.coherence >= MIN_COHERENCE
    else:
        # Accents stand alone between plain letters; words of another script do not.
        runs = NON_ASCII.findall(sample)
        dense = sum(len(run) for run in runs if len(run) >= SCRIPT_RUN)
        fits = dense > sum(map(len, runs)) / 2
    return Encoding(best.encoding, source="detected") if fits else western
