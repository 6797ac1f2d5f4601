"""The matching job: which products of two catalogs are the same.

Blocking proposes candidates (``blocking``), the model judges each pair, a threshold or a
one-to-one assignment decides. Pairs are answered through the same journal as any table.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from ecellm_mlx import events, jobs, runtime
from ecellm_mlx.catalog import answering, job, pairs, shards, writing
from ecellm_mlx.catalog.blocking import candidates
from ecellm_mlx.catalog.guard import Guard
from ecellm_mlx.catalog.guess import guess
from ecellm_mlx.catalog.journal import Journal
from ecellm_mlx.catalog.pairs import PairTable
from ecellm_mlx.catalog.question import Question, build
from ecellm_mlx.catalog.tables import Column, Table, open_table, plain
from ecellm_mlx.data.tasks import PRODUCT_PARTS
from ecellm_mlx.data.tasks import find as find_task
from ecellm_mlx.errors import JobError, UsageError
from ecellm_mlx.files import ensure_folder
from ecellm_mlx.models import adapter_files, registry
from ecellm_mlx.models.fingerprint import base_fingerprint

BLOCK_ROWS = 512
RESULTS = (
    Column("ecellm_match_probability", numeric=True),
    Column("ecellm_similarity", numeric=True),
    Column("ecellm_rank"),
)


def launch(
    left: Path,
    right: Path,
    *,
    model: str,
    out: Path,
    adapter: str | None = None,
    left_mapping: Sequence[str] = (),
    right_mapping: Sequence[str] = (),
    top: int = 5,
    threshold: float = 0.5,
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
        model, adapter: what judges pairs.
        out: the table of matches to write, in any format.
        left_mapping, right_mapping: ``title=column`` and so on; guessed when not given.
        top: candidates for each left product.
        threshold: least probability of a match.
        one_to_one: use each product once at most.
        review_band: pairs with a probability in it go to the review file.
        instruction: instead of the task's own.
        batch_size, resume, new, pause_on_battery, pause_on_memory, run: see ``job.launch``.

    Raises:
        DataError, UsageError, ModelError, JobError: see ``job.launch``.
    """
    task = find_task("PM")
    columns = [
        parts_of(open_table(path), mapping, option)
        for path, mapping, option in (
            (left, left_mapping, "--left-map"), (right, right_mapping, "--right-map"),
        )
    ]  # fmt: skip
    for name, values in (("--threshold", (threshold,)), ("--review-band", review_band or ())):
        if not all(0 <= value <= 1 for value in values):
            got = ", ".join(map(str, values))
            raise UsageError(f"{name} is no probability", got=got, expected="0 to 1")
    base = registry.resolve(model)
    out = out.absolute()
    ensure_folder(out.parent)
    question = build(
        pairs.FIELDS,
        task=task.name,
        mapping=[f"{field}={field}" for field in pairs.FIELDS],
        instruction=instruction,
    )
    config = {
        "left": str(left.absolute()),
        "right": str(right.absolute()),
        "left_columns": columns[0],
        "right_columns": columns[1],
        "question": question.to_dict(),
        "task": task.name,
        "model": str(base.absolute()),
        "model_name": model,
        "adapter": str(adapter_files.folder_of(adapter)) if adapter else None,
        "out": str(out),
        "values": "free",
        "top": top,
        "threshold": threshold,
        "one_to_one": one_to_one,
        "review_band": list(review_band) if review_band else None,
        "batch_size": batch_size,
        "new": new,
        "pause_on_battery": pause_on_battery,
        "pause_on_memory": pause_on_memory,
    }
    fingerprints = {"base": base_fingerprint(base)}
    job.check_journal(config, fingerprints["base"], out, resume=resume, new=new)
    return jobs.create("match", config, out=run, fingerprints=fingerprints)


def parts_of(table: Table, mapping: Sequence[str], option: str) -> dict[str, str]:
    """The column of each part of a product, as given or guessed from names and values.

    Raises:
        UsageError: an unknown part or column, or nothing that looks like a title.
    """
    found: dict[str, str] = {}
    problems = []
    for item in mapping:
        part, _, column = item.partition("=")
        if part not in PRODUCT_PARTS:
            problems.append(f"{part!r} is no part of a product")
        elif column not in table.names:
            problems.append(f"{table.path.name} has no column {column!r}")
        else:
            found[part] = column
    if not mapping:
        fields = {
            "product title": "title", "product description": "description",
            "product brand": "manufacturer", "product price": "price",
        }  # fmt: skip
        for choice in guess(table, find_task("AVE"), ["target attributes"]).choices:
            if choice.field in fields:
                found[fields[choice.field]] = choice.column
    if "title" not in found and not problems:
        problems.append(f"no column of {table.path.name} is mapped to the title")
    if problems:
        raise UsageError(
            f"{option}: {'; '.join(problems)}",
            expected=f"{', '.join(PRODUCT_PARTS)} and columns {', '.join(table.names)}",
        )
    return found


def run_job(context: jobs.JobContext) -> tuple[str, dict[str, Any]]:
    """Match the tables as ``job.json`` says."""
    config = context.config
    started = time.perf_counter()
    out = Path(config["out"])
    question = Question.from_dict(config["question"])
    left = pairs.read(open_table(Path(config["left"])), config["left_columns"])
    right = pairs.read(open_table(Path(config["right"])), config["right_columns"])
    for side in (left, right):
        if side.rejected:
            context.emit(
                events.Warned(
                    message=f"{side.rejected} rows of {side.table.path.name} could not be read"
                )
            )
    found = candidates(left.texts(), right.texts(), top=config["top"])
    if not found:
        raise JobError(
            "the catalogs have no word in common", cure="check --left-map and --right-map"
        )
    table = PairTable(left, right, found)
    shard = shards.join()
    who = job.identity(config, context.job.fingerprints["base"])
    size = answering.chunk_rows(config["batch_size"])
    with Journal(shards.journal_path(out, shard.rank), who, new=config["new"]) as journal:
        if not journal.begin(_source(table, config["batch_size"])):
            answering.plan(table, question, journal, size)
        ask, speed = job.load_model(context)
        pass_ = answering.Answering(
            context,
            journal,
            shard,
            Guard(config["pause_on_battery"], config["pause_on_memory"]),
            ask,
            size=size,
            batch_size=config["batch_size"],
        )
        context.started(device=job.device(), total_steps=pass_.tally.total)
        done = pass_.run(table, question)
        if not shard.all_done(done):
            return "stopped", {"rows": pass_.tally.done, "out": str(out)}
        shard.exchange(journal)
        if shard.rank:
            return "finished", {"rows": pass_.tally.done, "out": str(out)}
        probabilities = probabilities_of(table, question, journal)
    chosen = pairs.accepted(
        found,
        probabilities,
        threshold=config["threshold"],
        one_to_one=config["one_to_one"],
    )
    _write(out, table, probabilities, chosen)
    review = _in_band(probabilities, config["review_band"])
    review_file = writing.review_path(out)
    if review:
        _write(review_file, table, probabilities, review)
    else:
        review_file.unlink(missing_ok=True)
    return "finished", {
        "rows": len(chosen),
        "pairs": len(found),
        "computed": pass_.tally.computed,
        "errors": sum(p is None for p in probabilities),
        "review": len(review),
        "out": str(out),
        "review_file": str(review_file) if review else None,
        "seconds": time.perf_counter() - started,
        "tokens_per_second": speed(),
        "peak_memory_gb": runtime.peak_memory_gb(),
    }


def probabilities_of(
    table: PairTable, question: Question, journal: Journal
) -> list[float | None]:
    """Of each candidate being a match; None where it could not be asked."""
    ask = question.asker(table.names)
    found: list[float | None] = []
    rows = table.good_rows()
    while block := [ask(row.cells) for row in islice(rows, BLOCK_ROWS)]:
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
    places: Sequence[int],
) -> None:
    """The pairs at ``places``, with all columns of both sides."""
    columns = [
        *(Column(f"left_{name}") for name in table.left.table.names),
        *(Column(f"right_{name}") for name in table.right.table.names),
        *RESULTS,
    ]
    with plain.create(out, columns) as lines:
        for place in places:
            pair = table.candidates[place]
            lines.write(
                [
                    *table.left.rows[pair.left].cells,
                    *table.right.rows[pair.right].cells,
                    probabilities[place],
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
