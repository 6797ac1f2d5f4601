"""The matching job: which products of two catalogs are the same.

Blocking proposes candidates (``candidates``), the model judges each pair, a threshold or a
one-to-one assignment decides. Pairs are answered through the same journal as any table.
Where some matches are known, words, prices and the model decide together (``blending``), and
what such decisions are worth is measured.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

from ecellm_mlx import jobs
from ecellm_mlx.catalog import writing
from ecellm_mlx.catalog.job import answered, create_run
from ecellm_mlx.catalog.journal import CatalogJournal
from ecellm_mlx.data.question import Question, build
from ecellm_mlx.device import runtime
from ecellm_mlx.errors import JobError
from ecellm_mlx.jobs import events
from ecellm_mlx.matching import blending, pairs
from ecellm_mlx.matching import known as knowns
from ecellm_mlx.matching.candidates import candidates
from ecellm_mlx.matching.known import Known
from ecellm_mlx.matching.pairs import PairTable, Side
from ecellm_mlx.matching.settings import MatchJob, MatchSettings
from ecellm_mlx.tables import Column, open_table, plain
from ecellm_mlx.tasks.registry import find as find_task

BLOCK_ROWS = 512
EVEN = 0.5
PROBABILITY = Column("ecellm_match_probability", numeric=True)
MODEL_PROBABILITY = Column("ecellm_model_probability", numeric=True)
OTHERS = (Column("ecellm_similarity", numeric=True), Column("ecellm_rank"))


def create(
    left: Path, right: Path, settings: MatchSettings, *, run: Path | None = None
) -> jobs.RunDirectory:
    """Create the run directory of a matching job; ``jobs.start`` starts it.

    Args:
        left, right: the two tables.
        settings: how they are matched.
        run: the run directory; a new one in the workspace when not given.

    Raises:
        DataError, UsageError, ModelError, JobError: see ``catalog.job.create``.
    """
    left_columns = pairs.parts_of(open_table(left), settings.left_map, "--left-map")
    right_columns = pairs.parts_of(open_table(right), settings.right_map, "--right-map")
    if settings.truth:
        sides = (
            pairs.read(open_table(left), left_columns),
            pairs.read(open_table(right), right_columns),
        )
        blending.check(knowns.read(settings.truth, *sides))
    plain.check(settings.out)
    settings = replace(settings, truth=settings.truth and settings.truth.absolute())
    job = MatchJob(
        left=left.absolute(),
        right=right.absolute(),
        left_columns=left_columns,
        right_columns=right_columns,
        question=question_of_pairs(settings.instruction),
        settings=settings.resolved(),
    )
    return create_run("match", job, run)


def question_of_pairs(instruction: str | None = None) -> Question:
    """What is asked about a pair."""
    return build(
        pairs.FIELDS,
        task=find_task("PM").name,
        mapping=[f"{field}={field}" for field in pairs.FIELDS],
        instruction=instruction,
    )


def run_job(context: jobs.JobContext) -> tuple[str, dict[str, Any]]:
    """Match the tables as ``job.json`` says."""
    job = MatchJob.from_json(context.config)
    settings, out = job.settings, job.settings.out
    started = time.perf_counter()
    left = pairs.read(open_table(job.left), job.left_columns)
    right = pairs.read(open_table(job.right), job.right_columns)
    for side in (left, right):
        if side.rejected:
            _warn(context, f"{side.rejected} rows of {side.table.path.name} could not be read")
    proposed = candidates(left.texts(), right.texts(), top=settings.top)
    if not proposed:
        raise JobError(
            "the catalogs have no word in common", cure="check --left-map and --right-map"
        )
    table = PairTable(left, right, proposed)
    known = _known(context, settings.truth, left, right)
    results: dict[str, Any] = {"pairs": len(proposed), "out": str(out)}
    probabilities: list[float | None] | None = None
    if settings.model:
        source = _source(table, settings.batch_size)
        with answered(context, job, table, source) as answers:
            if answers.outcome:
                return answers.outcome, {"rows": answers.counts.done, "out": str(out)}
            probabilities = probabilities_of(table, job.question, answers.journal)
        results |= {
            "computed": answers.counts.computed,
            "shortened": answers.counts.shortened,
            "errors": sum(p is None for p in probabilities),
            "tokens_per_second": answers.model.tokens_per_second,
        }
    else:
        context.started(device="cpu", total_steps=0)
    decided, threshold = probabilities or [], settings.threshold
    if known:
        fitted = blending.fit(
            proposed,
            probabilities,
            known,
            prices=(left.prices(), right.prices()),
            one_to_one=settings.one_to_one,
        )
        decided = fitted.probabilities
        threshold = fitted.threshold if threshold is None else threshold
        results["truth"] = fitted.to_json()
        if settings.model and fitted.used == blending.WORDS:
            _warn(
                context,
                "the model adds nothing to words and prices on the known matches and is not "
                "used; "
                "train it on some of them (`ecellm catalog pairs`)",
            )
    threshold = EVEN if threshold is None else threshold
    chosen = pairs.accepted(
        proposed, decided, threshold=threshold, one_to_one=settings.one_to_one
    )
    model = probabilities if known else None
    _write(out, table, decided, model, chosen)
    review = _in_band(decided, settings.review_band)
    review_file = writing.review_path(out)
    if review:
        _write(review_file, table, decided, model, review)
    else:
        review_file.unlink(missing_ok=True)
    return "finished", {
        "rows": len(chosen),
        **results,
        "threshold": threshold,
        "review": len(review),
        "review_file": str(review_file) if review else None,
        "seconds": time.perf_counter() - started,
        "peak_memory_gb": runtime.peak_memory_gb() if settings.model else None,
    }


def _known(
    context: jobs.JobContext, truth: Path | None, left: Side, right: Side
) -> Known | None:
    if not truth:
        return None
    known = knowns.read(truth, left, right)
    if known.lost:
        _warn(context, f"{known.lost} known matches name products that are not there")
    return known


def _warn(context: jobs.JobContext, text: str) -> None:
    context.emit(events.Warned(message=text))


def probabilities_of(
    table: PairTable, question: Question, journal: CatalogJournal
) -> list[float | None]:
    """Of each candidate being a match; None where it could not be asked."""
    product_of = question.reader(table.names)
    probabilities: list[float | None] = []
    rows = table.good_rows()
    while block := [product_of(row.cells) for row in islice(rows, BLOCK_ROWS)]:
        entries = journal.entries([product.key for product in block])
        for product in block:
            entry = entries.get(product.key)
            if entry is None or entry.confidence is None:
                probabilities.append(None)
            else:
                sure = entry.confidence
                probabilities.append(sure if entry.answer == "yes" else 1 - sure)
    return probabilities


def _in_band(
    probabilities: Sequence[float | None], band: tuple[float, float] | None
) -> list[int]:
    if not band:
        return []
    low, high = sorted(band)
    return [i for i, p in enumerate(probabilities) if p is not None and low <= p <= high]


def _write(
    out: Path,
    table: PairTable,
    probabilities: Sequence[float | None],
    model: Sequence[float | None] | None,
    places: Sequence[int],
) -> None:
    """The pairs at ``places``, with all columns of both sides.

    ``model`` is what the model alone says, where that is not what decides.
    """
    columns = [
        *(Column(f"left_{name}") for name in table.left.table.names),
        *(Column(f"right_{name}") for name in table.right.table.names),
        PROBABILITY,
        *((MODEL_PROBABILITY,) if model else ()),
        *OTHERS,
    ]
    with plain.create(out, columns) as lines:
        for place in places:
            pair = table.candidates[place]
            lines.write(
                [
                    *table.left.rows[pair.left].cells,
                    *table.right.rows[pair.right].cells,
                    probabilities[place],
                    *((model[place],) if model else ()),
                    pair.similarity,
                    str(pair.rank),
                ]
            )


def _source(table: PairTable, batch_size: int) -> str:
    """Fingerprint of the pairs and of how they are divided into batches."""
    content = hashlib.sha256(f"pairs {batch_size}".encode())
    for row in table.good_rows():
        content.update("\x1f".join(row.cells).encode() + b"\x1e")
    return content.hexdigest()
