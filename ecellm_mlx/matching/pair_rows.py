"""Known matches as training rows, and a part of them kept aside to measure what was learned.

A row asks what ``catalog match`` asks, about pairs that blocking proposes: each known match
and, of the products most like it, those that are none. Such near misses are what a model
has to tell apart; random pairs differ in every word and teach little.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from ecellm_mlx.data.question import Question
from ecellm_mlx.data.rows import Row
from ecellm_mlx.data.schema import OWN_SETTING
from ecellm_mlx.errors import DataError, UsageError
from ecellm_mlx.files import ensure_folder, write_atomic
from ecellm_mlx.matching import known as knowns
from ecellm_mlx.matching.candidates import Candidate, candidates
from ecellm_mlx.matching.known import Known
from ecellm_mlx.matching.pairs import PairTable, Side
from ecellm_mlx.matching.settings import PairSettings
from ecellm_mlx.tables import Column, plain

HELD = "held.csv"


@dataclass(frozen=True)
class TrainingPairs:
    """Rows by split, and how many known matches were kept aside."""

    folder: Path
    train: int
    val: int
    held: int
    lost: int


def write(
    left: Side,
    right: Side,
    truth: Path,
    question: Question,
    out: Path,
    settings: PairSettings,
) -> TrainingPairs:
    """Write ``train.jsonl``, ``val.jsonl`` and ``held.csv`` into ``out``.

    Args:
        left, right: the catalogs.
        truth: the known matches.
        question: about a ``PairTable``.
        out: folder to write; it must be new or empty.
        settings: how many candidates are looked at for near misses, and what is shown: the
            matches of the products that are held go to ``held.csv`` alone, for
            ``catalog match --truth``.

    Raises:
        UsageError: the shares leave nothing.
        DataError: too few matches are known, or ``out`` is not empty.
    """
    hold, val = settings.hold, settings.val
    if not (0 <= hold < 1 and 0 <= val < 1):
        raise UsageError(
            "--hold and --val are shares", got=f"{hold:g} and {val:g}", expected="0 to 1"
        )
    known = knowns.read(truth, left, right)
    shown, held = known.split(hold, settings.seed)
    train, checked = known.only(shown).split(val, settings.seed)
    if not known.only(train).matches:
        raise DataError(
            f"{truth} leaves no match to train on",
            got=f"{known.matches} known matches",
            cure="give more of them, or smaller --hold and --val",
        )
    proposed = candidates(left.texts(), right.texts(), top=settings.top)
    ensure_folder(out)
    if any(out.iterdir()):
        raise DataError(f"{out} is not empty", cure="give another folder with --out")
    counts = []
    for name, lefts in (("train", train), ("val", checked)):
        chosen = _chosen(proposed, known, lefts, settings.negatives)
        lines = [
            json.dumps(asdict(row), ensure_ascii=False) + "\n"
            for row in _rows(PairTable(left, right, chosen), known, question, name)
        ]
        write_atomic(out / f"{name}.jsonl", "".join(lines))
        counts.append(len(lines))
    if held:
        _write_held(out / HELD, known, held)
    return TrainingPairs(out, counts[0], counts[1], known.only(held).matches, known.lost)


def _chosen(
    candidates: Sequence[Candidate], known: Known, lefts: Sequence[int], negatives: int
) -> list[Candidate]:
    """The matches of ``lefts`` and their nearest misses, which belong to no other part."""
    wanted = set(lefts)
    taken = {
        right for left, rights in known.rights.items() if left not in wanted for right in rights
    }
    misses: dict[int, list[Candidate]] = {left: [] for left in lefts}
    for pair in candidates:
        if pair.left in wanted and known.label(pair) is False and pair.right not in taken:
            misses[pair.left].append(pair)
    proposed = {(pair.left, pair.right): pair for pair in candidates}
    chosen: list[Candidate] = []
    for left in lefts:
        chosen += [
            proposed.get((left, right), Candidate(left, right, 0.0, 0))
            for right in sorted(known.rights[left])
        ]
        chosen += misses[left][:negatives]
    return chosen


def _rows(table: PairTable, known: Known, question: Question, split: str) -> Iterator[Row]:
    product_of = question.reader(table.names)
    seen: set[bytes] = set()
    for pair, row in zip(table.candidates, table.good_rows(), strict=True):
        product = product_of(row.cells)
        if product.row is None or product.key in seen:
            continue
        seen.add(product.key)
        answer = "yes" if known.label(pair) else "no"
        yield replace(product.row, output=answer, setting=OWN_SETTING, split=split)


def _write_held(path: Path, known: Known, held: Sequence[int]) -> None:
    """The known matches of ``held`` in the form that ``known.read`` reads."""
    with plain.create(path, [Column("left"), Column("right")]) as lines:
        for place in held:
            matches = [known.right_ids[right] for right in sorted(known.rights[place])]
            for match in matches or [""]:
                lines.write([known.left_ids[place], match])
