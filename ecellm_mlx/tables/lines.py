"""Lines of a text file as bytes, in constant memory.

UTF-16 and UTF-32 come out as UTF-8, because a line end is not one byte there; half
characters pass as they are, so that encoding the lines again gives the same bytes.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from pathlib import Path

from ecellm_mlx.tables.encoding import Encoding
from ecellm_mlx.tables.endings import opened

CHUNK = 256 * 1024


def raw_lines(
    path: Path, encoding: Encoding, *, carriage_return: bool = False
) -> Iterator[bytes]:
    """Lines with their ends, without a byte order mark.

    Args:
        path: the file.
        encoding: what it is in.
        carriage_return: lines end with a lone ``\\r``, as on old Macs.
    """
    with opened(path) as stream:
        stream.seek(len(encoding.bom))
        if not encoding.wide and not carriage_return:
            yield from stream
            return
        end = b"\r" if carriage_return else b"\n"
        decoder = codecs.getincrementaldecoder(encoding.name)("surrogatepass")
        rest = b""
        while True:
            block = stream.read(CHUNK)
            if encoding.wide:
                # A cut last character is dropped: half of one is no text.
                rest += decoder.decode(block).encode("utf-8", "surrogatepass")
            else:
                rest += block
            *lines, rest = rest.split(end)
            yield from (line + end for line in lines)
            if not block:
                break
        if rest:
            yield rest
