"""Product matching on the Leipzig Amazon-Google catalogs against the 1,300 known matches.

    python benchmarks/matching.py                      # blocking, and words alone
    python benchmarks/matching.py --rows DIR           # training rows of a part of the matches
    ecellm train --model M --data DIR --recipe smollm2 --set epochs=1 --out RUN
    python benchmarks/matching.py --rows DIR --model M --adapter RUN

Reports recall of blocking at k over both whole catalogs. With a model, a seeded sample of
left products is matched by the real job: of those that ``DIR/held.csv`` kept from training,
and, in the same proportion, of those without any match. No right product of their matches
occurs in a training row either. The sample is halved by products; what has to be fitted or
chosen (weights, thresholds) is fitted on one half and decides about the other, both ways,
and F1 is that of all decisions together. A match that blocking misses counts as missed.
Intervals of 95% are from 2,000 resamples of the left products.

Titles, manufacturers and prices are compared; the descriptions of the two shops have little
in common.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ecellm_mlx import jobs
from ecellm_mlx.matching import blending, job, pair_rows, pairs
from ecellm_mlx.matching import known as knowns
from ecellm_mlx.matching.candidates import Candidate, candidates
from ecellm_mlx.matching.known import Known
from ecellm_mlx.matching.settings import MatchSettings, PairSettings
from ecellm_mlx.tables import Column, open_table, plain

CATALOGS = Path(__file__).parents[1].parent / "shared" / "data" / "catalogs"
LEVELS = (1, 3, 5, 10, 20)
SEED = 0
HOLD = 0.55
RESAMPLES = 2000
# Beside the names of ``blend.SCORERS``.
FIRST, UNFITTED, CHOSEN = "first candidate", "model, from 0.5 on", "what the job chooses"


def mapping(title: str) -> tuple[str, ...]:
    """The columns that are compared."""
    return (f"title={title}", "manufacturer=manufacturer", "price=price")


def side(path: Path) -> pairs.Side:
    """A catalog with its columns."""
    table = open_table(path)
    title = "title" if "title" in table.names else "name"
    return pairs.read(table, pairs.parts_of(table, mapping(title), "--map"))


def judge(
    left: pairs.Side, lefts: Sequence[int], right: Path, options: argparse.Namespace
) -> tuple[list[Candidate], list[float]]:
    """Candidates of some left products, with the model's probabilities, by the real job."""
    with contextlib.ExitStack() as stack:
        # What was judged in a folder that was kept is not judged again.
        folder = options.keep or stack.enter_context(tempfile.TemporaryDirectory())
        part = Path(folder) / "left.csv"
        with plain.create(part, [Column(name) for name in left.table.header]) as lines:
            for place in lefts:
                lines.write(left.rows[place].cells)
        out = Path(folder) / "matches.jsonl"
        settings = MatchSettings(
            model=options.model, adapter=options.adapter, out=out,
            left_map=mapping("title"), right_map=mapping("name"), top=options.top,
            threshold=0.0, batch_size=16, resume=options.keep is not None,
        )  # fmt: skip
        run = job.create(part, right, settings, run=Path(folder) / f"run-{time.time_ns()}")
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


def halves(known: Known, lefts: Sequence[int]) -> list[Known]:
    """What is known of a sample, divided by products; none known means no match."""
    sample = replace(known, rights={i: known.rights.get(i, frozenset()) for i in lefts})
    first, second = sample.split(0.5, SEED)
    return [sample.only(first), sample.only(second)]


def decisions(
    found: Sequence[Candidate],
    probabilities: Sequence[float | None],
    parts: Sequence[Known],
    prices: blending.Prices,
    *,
    scorer: str,
    one_to_one: bool,
) -> list[Candidate]:
    """The pairs that are accepted in each part by what was fitted on the other."""
    if scorer == FIRST:
        return [pair for pair in found if pair.rank == 1]
    accepted: list[Candidate] = []
    for part, other in (parts, parts[::-1]):
        scores: Sequence[float | None] = probabilities
        threshold = 0.5
        if scorer != UNFITTED:
            fitted = blending.fit(
                found,
                probabilities,
                other,
                prices=prices,
                one_to_one=one_to_one,
                only=None if scorer == CHOSEN else scorer,
            )
            scores, threshold = fitted.probabilities, fitted.threshold
        places = [i for i, pair in enumerate(found) if pair.left in part.rights]
        kept = pairs.accepted(
            [found[i] for i in places],
            [scores[i] for i in places],
            threshold=threshold,
            one_to_one=one_to_one,
        )
        accepted += [found[places[i]] for i in kept]
    return accepted


def counts(chosen: Sequence[Candidate], rights: dict[int, frozenset[int]]) -> np.ndarray:
    """Hits, decisions and known matches of each left product: (products, 3)."""
    hits = Counter(pair.left for pair in chosen if pair.right in rights[pair.left])
    said = Counter(pair.left for pair in chosen)
    return np.array([(hits[left], said[left], len(rights[left])) for left in rights])


def f1_of(table: np.ndarray) -> np.ndarray:
    """F1 from sums of ``counts`` along the second last axis."""
    hits, said, known = np.moveaxis(table.sum(axis=-2), -1, 0)
    return 2 * hits / (said + known)


def interval(values: np.ndarray) -> str:
    low, high = np.quantile(values, (0.025, 0.975))
    return f"{low:.3f} to {high:.3f}"


def tell(
    found: Sequence[Candidate],
    probabilities: Sequence[float],
    parts: Sequence[Known],
    prices: blending.Prices,
) -> None:
    """F1 of every scorer, and how far each is from the words alone."""
    rights = {**parts[0].rights, **parts[1].rights}
    draws = np.random.default_rng(SEED).integers(len(rights), size=(RESAMPLES, len(rights)))
    print(
        f"{'':<24}{'decision':<12}{'F1':>7}{'P':>7}{'R':>7}{'F1, 95%':>18}{'against words':>18}"
    )
    for one_to_one in (False, True):
        words = np.zeros(0)
        for scorer in (blending.WORDS, FIRST, UNFITTED, blending.MODEL, blending.BOTH, CHOSEN):
            chosen = decisions(
                found, probabilities, parts, prices, scorer=scorer, one_to_one=one_to_one
            )
            table = counts(chosen, rights)
            hits, said, known = table.sum(axis=0).tolist()
            resampled = f1_of(table[draws])
            words = words if len(words) else resampled
            print(
                f"{scorer:<24}{'one-to-one' if one_to_one else 'each pair':<12}"
                f"{float(f1_of(table)):>7.3f}{hits / max(said, 1):>7.3f}{hits / known:>7.3f}"
                f"{interval(resampled):>18}{interval(resampled - words):>18}"
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--catalogs", type=Path, default=CATALOGS)
    parser.add_argument("--rows", type=Path, help="folder of training rows, made if missing")
    parser.add_argument("--model")
    parser.add_argument("--adapter")
    parser.add_argument("--lefts", type=int, default=480, help="left products to match")
    parser.add_argument("--top", type=int, default=5)
    parser.add_argument("--keep", type=Path, help="folder of answers, to go on with")
    options = parser.parse_args()
    right_path = options.catalogs / "google_products_latin1.csv"
    truth = options.catalogs / "amazon_google_matches.csv"
    left, right = side(options.catalogs / "amazon_software.csv"), side(right_path)
    known = knowns.read(truth, left, right)
    everything = candidates(left.texts(), right.texts(), top=max(LEVELS))
    print(f"{len(left.rows)} × {len(right.rows)} products, {known.matches} known matches")
    hit = [pair.rank for pair in everything if known.label(pair)]
    for level in LEVELS:
        recall = sum(rank <= level for rank in hit) / known.matches
        print(f"recall of blocking at {level:>2}: {recall:.3f}")
    first = [pair for pair in everything if pair.rank == 1]
    hits = sum(known.label(pair) is True for pair in first)
    print(
        f"first candidate of each, nothing fitted: F1 "
        f"{2 * hits / (len(first) + known.matches):.3f} (P {hits / len(first):.3f} "
        f"R {hits / known.matches:.3f})"
    )
    near = [pair for pair in everything if pair.rank <= options.top]
    prices = left.prices(), right.prices()
    parts = halves(known, range(len(left.rows)))
    for one_to_one in (False, True):
        chosen = decisions(
            near,
            [None] * len(near),
            parts,
            prices,
            scorer=blending.WORDS,
            one_to_one=one_to_one,
        )
        table = counts(chosen, {**parts[0].rights, **parts[1].rights})
        hits, said, _ = table.sum(axis=0).tolist()
        print(
            f"words and prices, fitted on half, {'one-to-one' if one_to_one else 'each pair'}: "
            f"F1 {float(f1_of(table)):.3f} (P {hits / said:.3f} R {hits / known.matches:.3f})"
        )
    if options.rows and not options.rows.exists():
        question = job.question_of_pairs()
        settings = PairSettings(hold=HOLD, val=0.06)
        print(pair_rows.write(left, right, truth, question, options.rows, settings))
    if not options.model:
        return
    held = knowns.read(options.rows / pair_rows.HELD, left, right)
    alone = [i for i in range(len(left.rows)) if i not in known.rights]
    draw = random.Random(SEED)
    share = options.lefts / (len(held.rights) + HOLD * len(alone))
    sample = draw.sample(sorted(held.rights), round(share * len(held.rights)))
    sample += draw.sample(alone, round(share * HOLD * len(alone)))
    parts = halves(held, sorted(sample))
    print(
        f"{len(sample)} left products that no training row shows, with "
        f"{sum(part.matches for part in parts)} known matches"
    )
    found, probabilities = judge(left, sorted(sample), right_path, options)
    tell(found, probabilities, parts, prices)


if __name__ == "__main__":
    main()
