"""Cut the embedded sample out of a folder of ECInstruct-format files.

    python benchmarks/make_sample.py ROWS CATALOG [--out ecellm_mlx/sample]

ROWS holds ``train.jsonl``, ``val.jsonl`` and ``test.jsonl`` whose lines carry
``source`` and ``license``; CATALOG is a CSV of products. Lines and records are copied
byte for byte. The choice is random among the short ones, balanced over the answers of
closed tasks, and the same for the same input. Share-alike sources are refused.
"""

from __future__ import annotations

import argparse
import json
import random
import re
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SEED = 2402
PERMISSIVE = {"Apache-2.0", "CC-BY-4.0", "CC0-1.0"}
IND, OOD = "IND_Diverse_Instruction", "OOD_Diverse_Instruction"
CATALOG_RECORDS = 60
CATALOG_CHARACTERS = 1_600  # of one record at most


@dataclass(frozen=True)
class Quota:
    """Rows to take of one task in each file. ``pool`` is how many short rows to draw from."""

    train: int
    val: int
    test: int
    ood: int = 0
    pool: float = 1.8


QUOTAS = {
    "Product_Matching": Quota(160, 16, 60),
    "Sentiment_Analysis": Quota(160, 16, 60, ood=12),
    "Attribute_Value_Extraction": Quota(160, 16, 60, ood=12),
    "Product_Relation_Predicition": Quota(30, 16, 24, ood=12),
    "Product_Substitue_Identification": Quota(30, 16, 24),
    "Query_Product_Ranking": Quota(30, 16, 24),
}
TITLE_ONLY_SHARE = 0.85  # of the extraction rows; the others have a description or features


def answer_class(row: dict[str, Any]) -> str:
    """What to balance a task by: its answer, or for extraction the kind of input."""
    if row["task"] == "Attribute_Value_Extraction":
        return "title only" if row["source"] == "oa-mine" else "more text"
    return "" if row["task"] == "Query_Product_Ranking" else row["output"]


def shares(task: str, classes: list[str], count: int) -> dict[str, int]:
    """Rows per class: equal parts, but for extraction mostly titles."""
    if classes == ["more text", "title only"]:
        titles = round(count * TITLE_ONLY_SHARE)
        return {"title only": titles, "more text": count - titles}
    return {
        name: count // len(classes) + (n < count % len(classes))
        for n, name in enumerate(classes)
    }


def choose(lines: list[tuple[str, dict[str, Any]]], count: int, pool: float) -> set[str]:
    """Ids of ``count`` rows of one task and setting."""
    by_class: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for _, row in lines:
        by_class[answer_class(row)].append(row)
    wanted = shares(lines[0][1]["task"], sorted(by_class), count)
    chosen: set[str] = set()
    for name, number in wanted.items():
        rows = sorted(by_class[name], key=lambda row: (len(row["input"]), row["id"]))
        if number > len(rows):
            raise SystemExit(f"{rows[0]['task']}: only {len(rows)} rows answer {name!r}")
        short = rows[: max(number, round(number * pool))]
        rng = random.Random(f"{SEED} {rows[0]['id']} {name}")
        chosen |= {row["id"] for row in rng.sample(short, number)}
    return chosen


def cut_rows(source: Path, split: str) -> list[str]:
    """The chosen lines of one file, unchanged and in their order."""
    lines = [
        (line, json.loads(line))
        for line in source.read_text(encoding="utf-8").split("\n")
        if line
    ]
    chosen: set[str] = set()
    for task, quota in QUOTAS.items():
        for setting, count in ((IND, getattr(quota, split)), (OOD, quota.ood)):
            mine = [x for x in lines if x[1]["task"] == task and x[1]["setting"] == setting]
            if count and (setting == IND or split == "test"):
                chosen |= choose(mine, count, quota.pool)
    kept = [(line, row) for line, row in lines if row["id"] in chosen]
    if foreign := {row["license"] for _, row in kept} - PERMISSIVE:
        raise SystemExit(
            f"{source}: rows under {', '.join(sorted(foreign))} cannot be embedded"
        )
    return [line for line, _ in kept]


def csv_records(text: str) -> list[str]:
    """The records of a CSV file as they stand; a line break inside quotes ends none."""
    records, pending = [], ""
    for line in re.split(r"(?<=\n)", text):
        pending += line
        if pending.count('"') % 2 == 0 and pending:
            records.append(pending)
            pending = ""
    return records


def cut_catalog(source: Path) -> str:
    """Header and ``CATALOG_RECORDS`` short records, the messy ones preferred."""
    with source.open(encoding="utf-8", newline="") as stream:
        header, *records = csv_records(stream.read())
    short = [n for n, record in enumerate(records) if len(record) <= CATALOG_CHARACTERS]
    rng = random.Random(SEED)
    rng.shuffle(short)
    kinds = (
        lambda r: '""' in r,  # a quotation mark inside a cell
        lambda r: not r.isascii(),
        lambda r: "\n" in r.rstrip("\r\n"),
        lambda r: True,
    )
    chosen: list[int] = []
    for number, kind in enumerate(kinds, start=1):
        fits = [n for n in short if n not in chosen and kind(records[n])]
        chosen += fits[: CATALOG_RECORDS * number // len(kinds) - len(chosen)]
    return header + "".join(records[n] for n in sorted(chosen))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("rows", type=Path)
    parser.add_argument("catalog", type=Path)
    parser.add_argument("--out", type=Path, default=Path("ecellm_mlx/sample"))
    arguments = parser.parse_args()
    for split in ("train", "val", "test"):
        lines = cut_rows(arguments.rows / f"{split}.jsonl", split)
        target = arguments.out / f"{split}.jsonl"
        target.write_text("\n".join(lines) + "\n", encoding="utf-8", newline="\n")
        print(f"{target}: {len(lines)} rows, {target.stat().st_size:,} bytes")
    target = arguments.out / "catalog.csv"
    target.write_text(cut_catalog(arguments.catalog), encoding="utf-8", newline="")
    print(f"{target}: {target.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
