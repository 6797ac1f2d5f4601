"""Known matches of two catalogs: read from a table, turned into labels, divided in parts.

The table's first two columns hold the id of a left product and of a right one; an empty
right id says that the left product is known to have no match. Which columns of the
catalogs hold those ids is found by their values. A left product that is listed counts as
wholly known: what is not listed with it is no match of it.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ecellm_mlx.errors import DataError
from ecellm_mlx.matching.candidates import Candidate
from ecellm_mlx.matching.pairs import Side
from ecellm_mlx.tables import TableRow, open_table

LEAST_SHARE = 0.5


@dataclass(frozen=True)
class Known:
    """What is known of two catalogs, by place among their rows.

    Attributes:
        rights: the matches of each left product that is known, none for some.
        left_ids, right_ids: the ids of the products that are named.
        lost: rows of the file that name a product which is not there.
    """

    rights: dict[int, frozenset[int]]
    left_ids: dict[int, str]
    right_ids: dict[int, str]
    lost: int = 0

    @property
    def matches(self) -> int:
        """How many pairs are known to be the same."""
        return sum(map(len, self.rights.values()))

    def label(self, pair: Candidate) -> bool | None:
        """Whether a pair is a match; None where nothing is known of its left product."""
        rights = self.rights.get(pair.left)
        return None if rights is None else pair.right in rights

    def only(self, lefts: Sequence[int]) -> Known:
        """What is known of some left products."""
        return replace(self, rights={left: self.rights[left] for left in lefts})

    def groups(self) -> list[list[int]]:
        """The left products, those that share a right product together.

        What is divided by whole groups has no product in two parts.
        """
        members: dict[int, list[int]] = {}
        group_of: dict[int, int] = {}
        owner: dict[int, int] = {}
        for left in sorted(self.rights):
            joined = {owner[right] for right in self.rights[left] if right in owner}
            mine = min(joined, default=left)
            group = [left]
            for other in joined:
                group += members.pop(other)
            members[mine] = sorted(group)
            group_of |= dict.fromkeys(group, mine)
            for member in group:
                owner |= dict.fromkeys(self.rights[member], mine)
        return [members[first] for first in sorted(members)]

    def split(self, share: float, seed: int) -> tuple[list[int], list[int]]:
        """The left products in two parts by whole groups, ``share`` of them in the second."""
        groups = self.groups()
        random.Random(seed).shuffle(groups)
        wanted = round(share * len(self.rights))
        second: list[int] = []
        first: list[int] = []
        for group in groups:
            part = second if len(second) + len(group) <= wanted else first
            part += group
        return sorted(first), sorted(second)


def read(path: Path, left: Side, right: Side) -> Known:
    """Read the known matches of two catalogs.

    Raises:
        DataError: it has fewer than two columns, a catalog has no column with its ids, or
            no row names products of both.
    """
    table = open_table(path)
    if len(table.names) < 2:
        raise DataError(
            f"{path} holds no known matches",
            got=f"{len(table.names)} column",
            expected="a column of left ids and one of right ids",
        )
    rows = [(row.cells[0].strip(), row.cells[1].strip()) for row in table.good_rows()]
    places = [
        _places(side, {pair[n] for pair in rows if pair[n]}, path, table.names[n])
        for n, side in enumerate((left, right))
    ]
    rights: dict[int, set[int]] = {}
    lost = 0
    for left_id, right_id in rows:
        lefts, matches = places[0].get(left_id, []), places[1].get(right_id, [])
        if not lefts or (right_id and not matches):
            lost += 1
            continue
        for place in lefts:
            rights.setdefault(place, set()).update(matches)
    ids = [{place: name for name, at in side.items() for place in at} for side in places]
    known = Known(
        {place: frozenset(matches) for place, matches in rights.items()}, ids[0], ids[1], lost
    )
    if not known.matches:
        raise DataError(
            f"{path} names no match of products of both catalogs", cure="check its ids"
        )
    return known


def _places(side: Side, ids: set[str], path: Path, name: str) -> dict[str, list[int]]:
    """Rows of a catalog by id; the id column is the one that holds most of ``ids``."""
    best: dict[str, list[int]] = {}
    for column in range(len(side.table.names)):
        rows_by_id: dict[str, list[int]] = {}
        for place, row in enumerate(side.rows):
            if (value := _cell(row, column)) in ids:
                rows_by_id.setdefault(value, []).append(place)
        if len(rows_by_id) > len(best):
            best = rows_by_id
    if len(best) < LEAST_SHARE * len(ids) or not ids:
        raise DataError(
            f"no column of {side.table.path.name} holds the ids of column {name!r} of {path}",
            got=f"{len(best)} of {len(ids)} ids in the best one",
            expected="the ids that the catalog itself has",
        )
    return best


def _cell(row: TableRow, column: int) -> str:
    return row.cells[column].strip()
