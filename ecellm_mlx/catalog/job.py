"""The catalog job: answer every product of a table and write the table with answers.

All original columns stay in order; ``ecellm_<name>``, ``ecellm_<name>_confidence`` and
``ecellm_<name>_error`` follow. Answers go through a journal beside the output, so a killed
run continues where it was, and the next month's export computes only what changed.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ecellm_mlx import events, jobs, runtime
from ecellm_mlx.catalog import answering, asking, shards, writing
from ecellm_mlx.catalog.guard import Guard
from ecellm_mlx.catalog.journal import Journal
from ecellm_mlx.catalog.question import DEFAULT_MAX_WORDS, Question, build
from ecellm_mlx.catalog.shards import journal_path
from ecellm_mlx.catalog.tables import Table, open_table
from ecellm_mlx.data.rows import digest
from ecellm_mlx.errors import JobError, UsageError
from ecellm_mlx.files import ensure_folder
from ecellm_mlx.models import adapter_files, registry
from ecellm_mlx.models.fingerprint import base_fingerprint

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
        model, adapter: what answers.
        out: the file to write, in any format of ``tables``.
        task, mapping, instruction, labels, attributes, name, max_words: see
            ``question.build``.
        values: ``source`` takes attribute values from the product's text only, ``free`` lets
            the model write them.
        batch_size: rows computed at once.
        resume: go on with an output's journal.
        new: keep answers apart from those of other settings in the same journal.
        strict: refuse a table with rows that cannot be read.
        review_below: confidence (0-1) under which a row goes to the review file.
        pause_on_battery: charge in percent under which an unplugged machine pauses.
        pause_on_memory: available memory in GiB under which the job pauses.
        encoding, delimiter, sheet: see ``tables.open_table``.
        run: the run directory; a new one in the workspace when not given.

    Raises:
        DataError, UsageError, ModelError: what is wrong, before anything starts.
        JobError: the output exists and ``resume`` was not asked for, or it was made with
            other settings.
    """
    reading = {"encoding": encoding, "delimiter": delimiter, "sheet": sheet}
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
    if values not in asking.VALUES:
        raise UsageError(f"--values {values} is unknown", expected=" or ".join(asking.VALUES))
    if review_below is not None and not 0 < review_below <= 1:
        raise UsageError(
            "--review-below is no confidence", got=str(review_below), expected="0 to 1"
        )
    if strict:
        answering.check_rows(content)
    base = registry.resolve(model)
    out = out.absolute()
    if out == table.absolute():
        raise UsageError(f"--out is the table itself: {table}", cure="give another file")
    ensure_folder(out.parent)
    config = {
        "table": str(table.absolute()),
        "reading": reading,
        "question": question.to_dict(),
        "task": question.task_name,
        "model": str(base.absolute()),
        "model_name": model,
        "adapter": str(adapter_files.folder_of(adapter)) if adapter else None,
        "out": str(out),
        "values": values,
        "batch_size": batch_size,
        "new": new,
        "review_below": review_below,
        "pause_on_battery": pause_on_battery,
        "pause_on_memory": pause_on_memory,
    }
    fingerprints = {"base": base_fingerprint(base)}
    check_journal(config, fingerprints["base"], out, resume=resume, new=new)
    return jobs.create("catalog", config, out=run, fingerprints=fingerprints)


def check_journal(
    config: dict[str, Any], base: str, out: Path, *, resume: bool, new: bool
) -> None:
    """Refuse an output that another run made, where the user is still looking.

    Raises:
        JobError: it exists and neither ``resume`` nor ``new`` was asked for, or its journal
            is of other settings.
    """
    journal = journal_path(out, shards.launched_rank())
    if journal.exists() and (resume or new):
        Journal(journal, identity(config, base), new=new).close()
    elif not resume and (out.exists() or journal.exists()):
        raise JobError(
            f"{out} or its journal exists already",
            cure="continue it with --resume, or give another --out",
        )


def identity(config: dict[str, Any], base: str) -> dict[str, Any]:
    """What answers depend on beside the row, by the name of the option that changes it."""
    question = dict(config["question"])
    adapter = Path(config["adapter"]) if config["adapter"] else None
    return {
        "task": question["task_name"],
        "mapping": [sorted(question["columns"].items()), sorted(question["constants"].items())],
        "instruction": question["instruction"],
        "labels": question["labels"],
        "max-words": question["max_words"],
        "values": config["values"],
        "model": base,
        "adapter": digest([adapter / adapter_files.WEIGHTS_FILE]) if adapter else None,
    }


def run_job(context: jobs.JobContext) -> tuple[str, dict[str, Any]]:
    """Process the table as ``job.json`` says."""
    config = context.config
    started = time.perf_counter()
    question = Question.from_dict(config["question"])
    table = open_table(Path(config["table"]), **config["reading"])
    out = Path(config["out"])
    shard = shards.join()
    who = identity(config, context.job.fingerprints["base"])
    size = answering.chunk_rows(config["batch_size"])
    with Journal(journal_path(out, shard.rank), who, new=config["new"]) as journal:
        if not journal.begin(_source(config)):
            answering.plan(table, question, journal, size)
        ask, speed = load_model(context)
        pass_ = answering.Answering(
            context,
            journal,
            shard,
            Guard(config["pause_on_battery"], config["pause_on_memory"]),
            ask,
            size=size,
            batch_size=config["batch_size"],
        )
        context.started(device=device(), total_steps=pass_.tally.total)
        done = pass_.run(table, question)
        if not shard.all_done(done):
            return "stopped", {"rows": pass_.tally.done, "out": str(out)}
        shard.exchange(journal)
        if shard.rank:
            return "finished", {"rows": pass_.tally.done, "out": str(out)}
        written = writing.write(
            table,
            question,
            journal,
            out,
            review_below=config["review_below"],
            tick=lambda: context.advance(context.status.step),
        )
    _warn(context, table, written, out)
    return "finished", {
        "rows": written.rows,
        "computed": pass_.tally.computed,
        "errors": written.errors,
        "rejected": written.rejected,
        "review": written.review,
        "out": str(out),
        "columns": written.columns,
        "rejects_file": str(writing.rejects_path(out)) if written.rejected else None,
        "review_file": str(writing.review_path(out)) if written.review else None,
        "confidence": written.confidence,
        "rows_per_second": written.rows / (time.perf_counter() - started),
        "tokens_per_second": speed(),
        "peak_memory_gb": runtime.peak_memory_gb(),
    }


def load_model(context: jobs.JobContext) -> tuple[answering.Ask, Callable[[], float]]:
    """The job's model as a function that answers rows, and one that tells its speed."""
    from ecellm_mlx.models import loading, lora

    config = context.config
    runtime.reset_peak_memory()
    base = loading.load(
        config["model"], warn=lambda text: context.emit(events.Warned(message=text))
    )
    if config["adapter"]:
        lora.load(base.model, Path(config["adapter"]), base=base.fingerprint)
    return asking.asker(base, config["batch_size"], config["values"])


def device() -> str:
    from ecellm_mlx.backend import RUNTIME

    return RUNTIME.device


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
