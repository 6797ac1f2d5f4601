"""Which of a table's first rows is its header.

Price lists start with a title, eBay's files with ``#INFO`` lines, Amazon's with lines for
Amazon, Excel's exports with ``sep=;``. Such rows stand above the header: they are copied
as they are, and nothing is asked about them.

A row stands above if it holds less than a header could: one cell or none where the table
has several columns, half as many cells as the table has columns, or a mark of those
programs. What follows must then look like titles; if it does not, the first row is the
header, as in most tables. A person overrules this by ``--header-row``.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

# Rows among which the header is looked for.
SEARCHED = 30
SEPARATOR = re.compile(r"^\ufeff?\"?sep=(.)", re.IGNORECASE | re.DOTALL)
# Amazon's templates: labels for people in the second row, names of attributes in the third;
# newer ones say in which row.
AMAZON = re.compile(r"^(TemplateType=|settings=)")
AMAZON_ROW = re.compile(r"attributeRow=(\d+)")
AMAZON_PLACE = 2
NUMBER = re.compile(r"^[\s\d.,:/%€$£+-]*$")


def header_place(rows: Sequence[Sequence[str]]) -> int:
    """The place of the header among the first rows of a table, from 0.

    Args:
        rows: cells of the first rows, ``SEARCHED`` of them at most; without any for rows
            that cannot be read.
    """
    if not rows:
        return 0
    if rows[0] and AMAZON.match(rows[0][0]):
        named = AMAZON_ROW.search(" ".join(rows[0]))
        place = int(named.group(1)) - 1 if named else AMAZON_PLACE
        return place if place < len(rows) else 0
    widths = Counter(len(cells) for cells in rows)
    # Of equally common widths the larger one: what stands above is narrower.
    width = max(widths, key=lambda n: (widths[n], n))
    place = 0
    while place < len(rows) - 1 and _stands_above(rows[place], width):
        place += 1
    return place if _are_titles(rows[place], width) else 0


def _stands_above(cells: Sequence[str], width: int) -> bool:
    first = cells[0] if cells else ""
    filled = sum(bool(cell.strip()) for cell in cells)
    if SEPARATOR.match(first) or first.upper().startswith("#INFO"):
        return True
    if width < 2:
        return False
    return filled < 2 or len(cells) * 2 <= width or (first[:1] == "#" and filled * 2 < width)


def _are_titles(cells: Sequence[str], width: int) -> bool:
    """Whether a row could be a header: most cells filled, all different, none a number."""
    titles = [cell.strip() for cell in cells if cell.strip()]
    return (
        len(titles) * 2 >= width
        and len(set(titles)) == len(titles)
        and not any(NUMBER.match(title) for title in titles)
    )


def facts(line: int, above: int) -> dict[str, str]:
    """For a person, where rows stand above the header: in which line it is."""
    if not above:
        return {}
    rows = "1 row above it" if above == 1 else f"{above} rows above it"
    return {"header": f"line {line} ({rows}, copied as it is)"}
