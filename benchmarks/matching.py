"""Product matching on the Leipzig Amazon-Google catalogs against the 1,300 known matches.

    python benchmarks/matching.py [--catalogs DIR] [--model M --adapter A --train ROWS]

Reports recall of blocking at k over both whole catalogs. With a model, a seeded sample of
left products is matched by the real job, and F1 is compared with that of the blocking
score alone (BM25, what one would do without a model). Thresholds are chosen on one half of
the sample and F1 is told for the other. Products that occur in ``--train`` (the rows that
the adapter was trained on) are left out; a match that blocking misses counts as missed.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ecellm_mlx import jobs
from ecellm_mlx.catalog import matching, pairs
from ecellm_mlx.catalog.blocking import Candidate, candidates
from ecellm_mlx.catalog.tables import Column, open_table, plain

CATALOGS = Path(__file__).parents[1].parent / "shared" / "data" / "catalogs"
LEVELS = (1, 3, 5, 10, 20)
SEED = 0

Pair = tuple[str, str]


def side(path: Path) -> pairs.Side:
    """A catalog with its guessed columns."""
    table = open_table(path)
    return pairs.read(table, matching.parts_of(table, (), "--map"))


def score(chosen: set[Pair], known: set[Pair]) -> tuple[float, float, float]:
    """F1, precision, recall."""
    hits = len(chosen & known)
    precision = hits / len(chosen) if chosen else 0.0
    recall = hits / len(known)
    return (2 * hits / (len(chosen) + len(known)), precision, recall)


def seen_titles(path: Path | None) -> set[str]:
    """Titles of both products in training rows."""
    titles: set[str] = set()
    for line in path.read_text(encoding="utf-8").splitlines() if path else ():
        row = json.loads(line)
        if row["task"] == "Product_Matching":
            value = json.loads(row["input"])
            titles |= {str(product["title"]) for product in value.values()}
    return titles


def judge(
    left: pairs.Side, lefts: Sequence[int], right: Path, options: argparse.Namespace
) -> tuple[list[Candidate], list[float]]:
    """Candidates of some left products, with the model's probabilities, by the real job."""
    with tempfile.TemporaryDirectory() as folder:
        part = Path(folder) / "left.csv"
        with plain.create(part, [Column(name) for name in left.table.header]) as lines:
            for place in lefts:
                lines.write(left.rows[place].cells)
        out = Path(folder) / "matches.jsonl"
        run = matching.launch(
            part, right, model=options.model, adapter=options.adapter, out=out,
            top=options.top, threshold=0.0, batch_size=16, run=Path(folder) / "run",
        )  # fmt: skip
        status = jobs.start(run).wait()
        if status:
            raise SystemExit(run.status().message)
        found: list[Candidate] = []
        probabilities: list[float] = []
        numbers = {left.rows[place].cells[0]: place for place in lefts}
        rights = {row.cells[0]: i for i, row in enumerate(side(right).rows)}
        for line in out.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            found.append(
                Candidate(
                    numbers[row["left_id"]],
                    rights[row["right_id"]],
                    row["ecellm_similarity"],
                    int(row["ecellm_rank"]),
                )
            )
            probabilities.append(row["ecellm_match_probability"])
        finished = [e for e in run.reader().read() if type(e).__name__ == "Finished"]
        results: dict[str, Any] = finished[-1].results  # type: ignore[attr-defined]
        print(
            f"judged {results['pairs']} pairs in {results['seconds']:.0f} s, "
            f"{results['tokens_per_second']:.0f} tokens/s"
        )
        return found, probabilities


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--catalogs", type=Path, default=CATALOGS)
    parser.add_argument("--model")
    parser.add_argument("--adapter")
    parser.add_argument("--train", type=Path, help="rows the adapter was trained on")
    parser.add_argument("--lefts", type=int, default=120, help="left products to match")
    parser.add_argument("--top", type=int, default=5)
    options = parser.parse_args()
    right_path = options.catalogs / "google_products_latin1.csv"
    left, right = side(options.catalogs / "amazon_software.csv"), side(right_path)
    matches = open_table(options.catalogs / "amazon_google_matches.csv")
    known = {(row.cells[0], row.cells[1]) for row in matches.good_rows()}

    def ids(found: Sequence[Candidate]) -> list[Pair]:
        return [(left.rows[c.left].cells[0], right.rows[c.right].cells[0]) for c in found]

    everything = candidates(left.texts(), right.texts(), top=max(LEVELS))
    named = ids(everything)
    print(f"{len(left.rows)} × {len(right.rows)} products, {len(known)} known matches")
    for level in LEVELS:
        kept = {p for p, c in zip(named, everything, strict=True) if c.rank <= level}
        print(f"recall of blocking at {level:>2}: {len(kept & known) / len(known):.3f}")
    first = [(p, c) for p, c in zip(named, everything, strict=True) if c.rank == 1]
    f1, precision, recall = score({p for p, _ in first}, known)
    print(f"first candidate of each, no model: F1 {f1:.3f} (P {precision:.3f} R {recall:.3f})")
    if not options.model:
        return

    seen = seen_titles(options.train)
    free = [i for i, row in enumerate(left.rows) if left.part(row, "title") not in seen]
    sample = sorted(random.Random(SEED).sample(free, min(options.lefts, len(free))))
    found, probabilities = judge(left, sample, right_path, options)
    halves = [set(sample[::2]), set(sample[1::2])]
    truth = []
    for half in halves:
        names = {left.rows[i].cells[0] for i in half}
        truth.append({pair for pair in known if pair[0] in names})
    print(
        f"{len(sample)} left products not among the training rows; thresholds chosen on "
        f"{len(halves[0])} of them ({len(truth[0])} matches), F1 on the other "
        f"{len(halves[1])} ({len(truth[1])} matches)"
    )
    scorers = {
        "BM25 similarity alone": [c.similarity for c in found],
        "model": probabilities,
        "model × similarity": [
            p * c.similarity for p, c in zip(probabilities, found, strict=True)
        ],
    }
    print(f"{'':<24}{'decision':<12}{'threshold':>10}{'F1':>8}{'P':>8}{'R':>8}")
    for name, values in scorers.items():
        for one_to_one in (False, True):

            def chosen(
                half: int, threshold: float, values: list[float] = values,
                one_to_one: bool = one_to_one,
            ) -> set[Pair]:  # fmt: skip
                places = [i for i, c in enumerate(found) if c.left in halves[half]]
                part = [found[i] for i in places]
                kept = pairs.accepted(
                    part, [values[i] for i in places], threshold=threshold,
                    one_to_one=one_to_one,
                )  # fmt: skip
                return set(ids([part[i] for i in kept]))

            levels = sorted({round(v, 3) for v in values})
            best = max(levels, key=lambda t: score(chosen(0, t), truth[0])[0])
            decision = "one-to-one" if one_to_one else "each pair"
            for threshold in (best, 0.5) if name == "model" else (best,):
                f1, precision, recall = score(chosen(1, threshold), truth[1])
                print(
                    f"{name:<24}{decision:<12}{threshold:>10.3f}{f1:>8.3f}{precision:>8.3f}"
                    f"{recall:>8.3f}"
                )


if __name__ == "__main__":
    main()
