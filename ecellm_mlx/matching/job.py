"""The matching job: which products of two catalogs are the same.

Blocking proposes candidates (``blocking``), the model judges each pair, a threshold or a
one-to-one assignment decides. Pairs are answered through the same journal as any table.
Where some matches are known, words, prices and the model decide together (``blend``), and what
such decisions are worth is measured.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from ecellm_mlx import jobs
from ecellm_mlx.catalog import body, writing
from ecellm_mlx.catalog.journal import Journal
from ecellm_mlx.data.question import Question, build
from ecellm_mlx.device import runtime
from ecellm_mlx.errors import JobError, UsageError
from ecellm_mlx.jobs import events
from ecellm_mlx.matching import blending, pairs
from ecellm_mlx.matching import known as knowns
from ecellm_mlx.matching.candidates import candidates
from ecellm_mlx.matching.known import Known
from ecellm_mlx.matching.pairs import PairTable, Side
from ecellm_mlx.tables import Column, open_table, plain
from ecellm_mlx.tasks.registry import find as find_task

BLOCK_ROWS = 512
EVEN = 0.5
PROBABILITY = Column("ecellm_match_probability", numeric=True)
MODEL_PROBABILITY = Column("ecellm_model_probability", numeric=True)
OTHERS = (Column("ecellm_similarity", numeric=True), Column("ecellm_rank"))


def launch(
    left: Path,
    right: Path,
    *,
    out: Path,
    model: str | None = None,
    adapter: str | None = None,
    left_mapping: Sequence[str] = (),
    right_mapping: Sequence[str] = (),
    top: int = 5,
    truth: Path | None = None,
    threshold: float | None = None,
    one_to_one: bool = False,
    review_band: tuple[float, float] | None = None,
    instruction: str | None = None,
    batch_size: int = 16,
    resume: bool = False,
    new: bool = False,
    pause_on_battery: float | None = None,
    pause_on_memory: float | None = None,
    run: Path | None = None,
) -> jobs.RunDirectory:
    """Create the run directory of a matching job; ``jobs.start`` starts it.

    Args:
        left, right: the two tables.
        out: the table of matches to write, in any format.
        model: what judges pairs; without one words and prices decide, which needs ``truth``.
        left_mapping, right_mapping: ``title=column`` and so on; guessed when not given.
        top: candidates for each left product.
        truth: a table of known matches to fit to; see ``known``.
        threshold: least probability of a match; by default the best one for ``truth``, and
            0.5 without.
        one_to_one: use each product once at most.
        review_band: pairs with a probability in it go to the review file.
        instruction: instead of the task's own.
        adapter, batch_size, resume, new, pause_on_battery, pause_on_memory, run: see
            ``body.Setup``.

    Raises:
        DataError, UsageError, ModelError, JobError: see ``job.launch``.
    """
    if model is None and (truth is None or adapter):
        raise UsageError(
            "there is nothing to judge pairs by: no --model was given",
            cure="give a --model, or known matches with --truth to match by words and prices",
        )
    probabilities = (
        ("--threshold", () if threshold is None else (threshold,)),
        ("--review-band", review_band or ()),
    )
    for name, values in probabilities:
        if not all(0 <= value <= 1 for value in values):
            got = ", ".join(map(str, values))
            raise UsageError(f"{name} is no probability", got=got, expected="0 to 1")
    columns = [
        pairs.parts_of(open_table(path), mapping, option)
        for path, mapping, option in (
            (left, left_mapping, "--left-map"), (right, right_mapping, "--right-map"),
        )
    ]  # fmt: skip
    if truth:
        sides = (
            pairs.read(open_table(p), c) for p, c in zip((left, right), columns, strict=True)
        )
        blending.check(knowns.read(truth, *sides))
    config = {
        "left": str(left.absolute()),
        "right": str(right.absolute()),
        "left_columns": columns[0],
        "right_columns": columns[1],
        "values": "free",
        "top": top,
        "truth": str(truth.absolute()) if truth else None,
        "threshold": threshold,
        "one_to_one": one_to_one,
        "review_band": list(review_band) if review_band else None,
    }
    plain.check(out)
    setup = body.Setup(
        model=model,
        out=out,
        adapter=adapter,
        batch_size=batch_size,
        resume=resume,
        new=new,
        pause_on_battery=pause_on_battery,
        pause_on_memory=pause_on_memory,
        run=run,
    )
    return body.create("match", question_of_pairs(instruction), config, setup)


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
    config = context.config
    started = time.perf_counter()
    out = Path(config["out"])
    left, right = (
        pairs.read(open_table(Path(config[side])), config[f"{side}_columns"])
        for side in ("left", "right")
    )
    for side in (left, right):
        if side.rejected:
            _warn(context, f"{side.rejected} rows of {side.table.path.name} could not be read")
    found = candidates(left.texts(), right.texts(), top=config["top"])
    if not found:
        raise JobError(
            "the catalogs have no word in common", cure="check --left-map and --right-map"
        )
    table = PairTable(left, right, found)
    known = _known(context, left, right)
    results: dict[str, Any] = {"pairs": len(found), "out": str(out)}
    probabilities: list[float | None] | None = None
    if config["model"]:
        question = Question.from_dict(config["question"])
        with body.answers(context, table, _source(table, config["batch_size"])) as answers:
            if answers.ended:
                return answers.ended, {"rows": answers.tally.done, "out": str(out)}
            probabilities = probabilities_of(table, question, answers.journal)
        results |= {
            "computed": answers.tally.computed,
            "shortened": answers.tally.shortened,
            "errors": sum(p is None for p in probabilities),
            "tokens_per_second": answers.speed(),
        }
    else:
        context.started(device="cpu", total_steps=0)
    decided, threshold = probabilities or [], config["threshold"]
    if known:
        fitted = blending.fit(
            found,
            probabilities,
            known,
            prices=(left.prices(), right.prices()),
            one_to_one=config["one_to_one"],
        )
        decided = fitted.probabilities
        threshold = fitted.threshold if threshold is None else threshold
        results["truth"] = fitted.to_json()
        if config["model"] and fitted.used == blending.WORDS:
            _warn(
                context,
                "the model adds nothing to words and prices on the known matches and is not "
                "used; "
                "train it on some of them (`ecellm catalog pairs`)",
            )
    threshold = EVEN if threshold is None else threshold
    chosen = pairs.accepted(
        found, decided, threshold=threshold, one_to_one=config["one_to_one"]
    )
    model = probabilities if known else None
    _write(out, table, decided, model, chosen)
    review = _in_band(decided, config["review_band"])
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
        "peak_memory_gb": runtime.peak_memory_gb() if config["model"] else None,
    }


def _known(context: jobs.JobContext, left: Side, right: Side) -> Known | None:
    truth = context.config["truth"]
    if not truth:
        return None
    known = knowns.read(Path(truth), left, right)
    if known.lost:
        _warn(context, f"{known.lost} known matches name products that are not there")
    return known


def _warn(context: jobs.JobContext, text: str) -> None:
    context.emit(events.Warned(message=text))


def probabilities_of(
    table: PairTable, question: Question, journal: Journal
) -> list[float | None]:
    """Of each candidate being a match; None where it could not be asked."""
    product_of = question.reader(table.names)
    found: list[float | None] = []
    rows = table.good_rows()
    while block := [product_of(row.cells) for row in islice(rows, BLOCK_ROWS)]:
        entries = journal.entries([product.key for product in block])
        for product in block:
            entry = entries.get(product.key)
            if entry is None or entry.confidence is None:
                found.append(None)
            else:
                sure = entry.confidence
                found.append(sure if entry.answer == "yes" else 1 - sure)
    return found


def _in_band(probabilities: Sequence[float | None], band: list[float] | None) -> list[int]:
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
    found = hashlib.sha256(f"pairs {batch_size}".encode())
    for row in table.good_rows():
        found.update("\x1f".join(row.cells).encode() + b"\x1e")
    return found.hexdigest()
