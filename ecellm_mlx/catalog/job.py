"""The catalog job: answer every product of a table and write the table with answers.

All original columns stay in order; ``ecellm_<name>``, ``ecellm_<name>_confidence`` and
``ecellm_<name>_error`` follow. Answers go through a journal beside the output, so a killed
run continues where it was, and the next month's export computes only what changed.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ecellm_mlx import jobs
from ecellm_mlx.catalog import answering, body, writing
from ecellm_mlx.data.question import DEFAULT_MAX_WORDS, Question, build
from ecellm_mlx.device import runtime
from ecellm_mlx.distributed.shards import journal_path
from ecellm_mlx.errors import UsageError
from ecellm_mlx.jobs import events
from ecellm_mlx.tables import Table, check_writable, open_table
from ecellm_mlx.tasks.values import parse as parse_values

__all__ = ["journal_path", "launch", "run_job"]

HASH_BYTES = 1024 * 1024


def launch(
    table: Path,
    *,
    model: str,
    out: Path,
    task: str | None = None,
    mapping: Sequence[str] = (),
    adapter: str | None = None,
    instruction: str | None = None,
    labels: Sequence[str] = (),
    attributes: Sequence[str] = (),
    name: str | None = None,
    max_words: int = DEFAULT_MAX_WORDS,
    values: str = "source",
    batch_size: int = 16,
    resume: bool = False,
    new: bool = False,
    strict: bool = False,
    review_below: float | None = None,
    pause_on_battery: float | None = None,
    pause_on_memory: float | None = None,
    encoding: str | None = None,
    delimiter: str | None = None,
    sheet: str | None = None,
    run: Path | None = None,
) -> jobs.RunDirectory:
    """Create the run directory of a catalog job; ``jobs.start`` starts it.

    Args:
        table: the file to read.
        model, adapter, batch_size, resume, new, pause_on_battery, pause_on_memory, run:
            see ``body.Setup``.
        out: the file to write, in any format of ``tables``.
        task, mapping, instruction, labels, attributes, name, max_words: see
            ``question.build``.
        values: ``source`` takes attribute values from the product's text only, ``free`` lets
            the model write them.
        strict: refuse a table with rows that cannot be read.
        review_below: confidence (0-1) under which a row goes to the review file.
        encoding, delimiter, sheet: see ``tables.open_table``.

    Raises:
        DataError, UsageError, ModelError: what is wrong, before anything starts.
        JobError: the output exists and ``resume`` was not asked for, or it was made with
            other settings.
    """
    reading: dict[str, Any] = {"encoding": encoding, "delimiter": delimiter, "sheet": sheet}
    content = open_table(table, **reading)
    question = build(
        content.names,
        task=task,
        mapping=mapping,
        instruction=instruction,
        labels=labels,
        attributes=attributes,
        name=name,
        max_words=max_words,
    )
    parse_values(values)
    if review_below is not None and not 0 < review_below <= 1:
        raise UsageError(
            "--review-below is no confidence", got=str(review_below), expected="0 to 1"
        )
    if strict:
        answering.check_rows(content)
    if out.absolute() == table.absolute():
        raise UsageError(f"--out is the table itself: {table}", cure="give another file")
    check_writable(content, out)
    config = {
        "table": str(table.absolute()),
        "reading": reading,
        "values": values,
        "review_below": review_below,
    }
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
    return body.create("catalog", question, config, setup)


def run_job(context: jobs.JobContext) -> tuple[str, dict[str, Any]]:
    """Process the table as ``job.json`` says."""
    config = context.config
    started = time.perf_counter()
    question = Question.from_dict(config["question"])
    table = open_table(Path(config["table"]), **config["reading"])
    out = Path(config["out"])
    with body.answers(context, table, _source(config)) as answers:
        tally = answers.tally
        if answers.ended:
            return answers.ended, {"rows": tally.done, "out": str(out)}
        written = writing.write(
            table,
            question,
            answers.journal,
            out,
            review_below=config["review_below"],
            tick=lambda: context.advance(context.status.step),
        )
    _warn(context, table, written, out)
    return "finished", {
        "rows": written.rows,
        "computed": tally.computed,
        "errors": written.errors,
        "rejected": written.rejected,
        "shortened": tally.shortened,
        "review": written.review,
        "out": str(out),
        "columns": written.columns,
        "rejects_file": str(writing.rejects_path(out)) if written.rejected else None,
        "review_file": str(writing.review_path(out)) if written.review else None,
        "confidence": written.confidence,
        "rows_per_second": written.rows / (time.perf_counter() - started),
        "tokens_per_second": answers.speed(),
        "peak_memory_gb": runtime.peak_memory_gb(),
    }


def _warn(context: jobs.JobContext, table: Table, done: writing.Written, out: Path) -> None:
    if done.rejected:
        context.emit(
            events.Warned(
                message=f"{done.rejected} rows of {table.path.name} could not be read; they "
                f"are in {writing.rejects_path(out)}"
            )
        )
    if done.as_utf8:
        context.emit(
            events.Warned(
                message=f"{out.name} is written in UTF-8: an answer holds a character that the "
                "table's own encoding lacks"
            )
        )


def _source(config: dict[str, Any]) -> str:
    """Fingerprint of the table and of how it is divided into batches."""
    found = hashlib.sha256()
    with Path(config["table"]).open("rb") as stream:
        while block := stream.read(HASH_BYTES):
            found.update(block)
    found.update(repr((sorted(config["reading"].items()), config["batch_size"])).encode())
    return found.hexdigest()
