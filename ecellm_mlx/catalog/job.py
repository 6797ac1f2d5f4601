"""The catalog job: answer every product of a table and write the table with answers.

All original columns stay in order; ``ecellm_<name>``, ``ecellm_<name>_confidence`` and
``ecellm_<name>_error`` follow. Answers go through a journal beside the output, so a killed
run continues where it was, and the next month's export computes only what changed.

``create_run`` and ``answered`` serve any job that asks a question about each row of a table;
``matching`` asks one about pairs.
"""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ecellm_mlx import device, jobs
from ecellm_mlx import settings as declared
from ecellm_mlx.catalog import answering, writing
from ecellm_mlx.catalog.answering import CatalogModel, PassCounts, TablePass
from ecellm_mlx.catalog.guard import Guard
from ecellm_mlx.catalog.journal import CatalogJournal
from ecellm_mlx.catalog.settings import AnswerJob, CatalogJob, CatalogSettings, Reading
from ecellm_mlx.data.question import Question
from ecellm_mlx.device import runtime
from ecellm_mlx.distributed import shards
from ecellm_mlx.distributed.launched import launched_rank
from ecellm_mlx.errors import JobError, UsageError
from ecellm_mlx.files import ensure_folder
from ecellm_mlx.jobs import events
from ecellm_mlx.models.fingerprint import base_fingerprint
from ecellm_mlx.tables import Table, check_writable

HASH_BYTES = 1024 * 1024
DETECTED = Reading()


def create(
    table: Path,
    question: Question,
    settings: CatalogSettings,
    *,
    reading: Reading = DETECTED,
    run: Path | None = None,
) -> jobs.RunDirectory:
    """Create the run directory of a catalog job; ``jobs.start`` starts it.

    Args:
        table: the file to read.
        question: what is asked about each of its rows.
        settings: how it is answered.
        reading: how the table is written down.
        run: the run directory; a new one in the workspace when not given.

    Raises:
        DataError, UsageError, ModelError: what is wrong, before anything starts.
        JobError: the output exists and ``resume`` was not asked for, or it was made with
            other settings.
    """
    content = reading.open(table)
    if settings.normalise and not question.kind.result_parts(question.constants):
        raise UsageError(
            "--normalise is for attributes that are the same for all rows",
            cure="name them with --attributes, or leave --normalise out",
        )
    if settings.strict:
        answering.check_rows(content)
    if settings.out.absolute() == table.absolute():
        raise UsageError(f"--out is the table itself: {table}", cure="give another file")
    check_writable(content, settings.out)
    job = CatalogJob(
        table=table.absolute(), reading=reading, question=question, settings=settings.resolved()
    )
    return create_run("catalog", job, run)


def create_run(kind: str, job: AnswerJob, run: Path | None) -> jobs.RunDirectory:
    """Create the run directory of a job that answers a table.

    Raises:
        StorageError: the folder of the output cannot be written.
        JobError: see ``_check_journal``; or the run directory is in use.
    """
    ensure_folder(job.settings.out.parent)
    fingerprints = {}
    if job.settings.model:
        fingerprints["base"] = base_fingerprint(Path(job.settings.model))
    _check_journal(job, fingerprints.get("base"))
    return jobs.create(kind, job.to_json(), out=run, fingerprints=fingerprints)


def _check_journal(job: AnswerJob, base: str | None) -> None:
    """Refuse an output that another run made, where the user is still looking.

    Raises:
        JobError: it exists and neither ``resume`` nor ``new`` was asked for, or its journal
            is of other settings.
    """
    out, resume, new = job.settings.out, job.settings.resume, job.settings.new
    journal = shards.journal_path(out, launched_rank())
    if base and journal.exists() and (resume or new):
        CatalogJournal(journal, job.identity(base), new=new).close()
    elif not resume and (out.exists() or journal.exists()):
        raise JobError(
            f"{out} or its journal exists already",
            cure="continue it with --resume, or give another --out",
        )


def run_job(context: jobs.JobContext) -> tuple[str, dict[str, Any]]:
    """Process the table as ``job.json`` says."""
    job = CatalogJob.from_json(context.config)
    started = time.perf_counter()
    table, out = job.reading.open(job.table), job.settings.out
    with answered(context, job, table, _source(job)) as answers:
        counts = answers.counts
        if answers.outcome:
            return answers.outcome, {"rows": counts.done, "out": str(out)}
        written = writing.write(
            table,
            job.question,
            answers.journal,
            out,
            review_below=job.settings.review_below,
            normalise=job.settings.normalise,
            tick=lambda: context.advance(context.status.step),
        )
    _warn(context, table, written, out)
    return "finished", {
        "rows": written.rows,
        "computed": counts.computed,
        "errors": written.errors,
        "blank": written.blank,
        "rejected": written.rejected,
        "shortened": counts.shortened,
        "review": written.review,
        "out": str(out),
        "columns": written.columns,
        "rejects_file": str(writing.rejects_path(out)) if written.rejected else None,
        "review_file": str(writing.review_path(out)) if written.review else None,
        "confidence": written.confidence,
        "rows_per_second": written.rows / (time.perf_counter() - started),
        "tokens_per_second": answers.model.tokens_per_second,
        "peak_memory_gb": runtime.peak_memory_gb(),
    }


@dataclass
class AnsweredTable:
    """A table after the first pass over it.

    ``outcome`` is the job's where this process has nothing more to do: it was stopped, or
    another rank writes.
    """

    journal: CatalogJournal
    counts: PassCounts
    model: CatalogModel
    outcome: str | None = None


@contextlib.contextmanager
def answered(
    context: jobs.JobContext, job: AnswerJob, table: Table, source: str
) -> Iterator[AnsweredTable]:
    """Answer this rank's part of ``table`` and, when all ranks are done, share the answers.

    The journal is open, and locked, for the time of the block.

    Args:
        context: the job's process.
        job: what is asked, and how it is answered.
        table: what is asked about, row by row.
        source: fingerprint of the table and of how it is divided into batches.

    Raises:
        JobError: this rank's part or another one's failed.
    """
    settings = job.settings
    shard = shards.join()
    who = job.identity(context.job.fingerprints["base"])
    size = answering.chunk_rows(settings.batch_size)
    with contextlib.ExitStack() as stack:
        with shard.reporting():
            path = shards.journal_path(settings.out, shard.rank)
            journal = stack.enter_context(CatalogJournal(path, who, new=settings.new))
            if not journal.begin(source):
                answering.plan(table, job.question, journal, size)
            model = CatalogModel(
                str(settings.model),
                settings.adapter,
                batch_size=settings.batch_size,
                values=settings.values,
                warn=lambda text: context.emit(events.Warned(message=text)),
            )
            table_pass = TablePass(
                context,
                journal,
                shard,
                Guard(settings.pause_on_battery, settings.pause_on_memory),
                model.answer,
                size=size,
                batch_size=settings.batch_size,
            )
            context.started(device=device.name(), total_steps=table_pass.counts.total)
            done = table_pass.run(table, job.question)
        answers = AnsweredTable(journal, table_pass.counts, model)
        if not shard.all_done(done):
            answers.outcome = "stopped"
        else:
            shard.exchange(journal.blocks(), journal.add_block)
            if shard.rank:
                answers.outcome = "finished"
        yield answers


def _warn(
    context: jobs.JobContext, table: Table, done: writing.WrittenCatalog, out: Path
) -> None:
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


def _source(job: CatalogJob) -> str:
    """Fingerprint of the table and of how it is divided into batches."""
    content = hashlib.sha256()
    with job.table.open("rb") as stream:
        while block := stream.read(HASH_BYTES):
            content.update(block)
    reading = sorted(declared.to_json(job.reading).items())
    content.update(repr((reading, job.settings.batch_size)).encode())
    return content.hexdigest()
