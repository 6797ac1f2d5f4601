"""The catalog job: answer every product of a table and write the table with answers.

All original columns stay in order; ``ecellm_<task>``, ``ecellm_<task>_confidence``
and ``ecellm_<task>_error`` follow. Answers go through a journal beside the output,
so a killed run continues where it was.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ecellm_mlx import events, jobs, runtime
from ecellm_mlx.catalog import mapping as mappings
from ecellm_mlx.catalog import tables
from ecellm_mlx.catalog.journal import Entry, Journal
from ecellm_mlx.catalog.mapping import Product
from ecellm_mlx.data.rows import Row
from ecellm_mlx.data.tasks import Kind, Task
from ecellm_mlx.data.tasks import find as find_task
from ecellm_mlx.errors import DataError, JobError, UsageError
from ecellm_mlx.files import ensure_folder
from ecellm_mlx.models import adapter_files, registry
from ecellm_mlx.models.fingerprint import base_fingerprint

if TYPE_CHECKING:
    from ecellm_mlx.inference.answers import Answerer

# Kinds of answers that need no list of options beside the product.
RUNNABLE = (Kind.YES_NO, Kind.EXTRACTION, Kind.TEXT)


def launch(
    table: Path,
    *,
    task: str,
    mapping: Sequence[str],
    model: str,
    out: Path,
    adapter: str | None = None,
    instruction: str | None = None,
    batch_size: int = 16,
    resume: bool = False,
    run: Path | None = None,
) -> jobs.RunDirectory:
    """Create the run directory of a catalog job; ``jobs.start`` starts it.

    Raises:
        DataError, UsageError, ModelError: what is wrong, before anything starts.
        JobError: the output exists and ``resume`` was not asked for.
    """
    found = find_task(task)
    if found.kind not in RUNNABLE:
        raise UsageError(
            f"--task {found.name} needs options to choose from, which a table does not have",
            cure="choose a task such as Attribute_Value_Extraction",
        )
    content = tables.read(table)
    parsed = mappings.parse(mapping, found, content.header)
    base = registry.resolve(model)
    out = out.absolute()
    ensure_folder(out.parent)
    if not resume and (out.exists() or journal_path(out).exists()):
        raise JobError(
            f"{out} or its journal exists already",
            cure="continue it with --resume, or give another --out",
        )
    config = {
        "table": str(table.absolute()),
        "task": found.name,
        "mapping": [f"{k}={v}" for k, v in parsed.to_dict().items()],
        "instruction": instruction or found.instruction,
        "model": str(base.absolute()),
        "model_name": model,
        "adapter": str(adapter_files.folder_of(adapter)) if adapter else None,
        "out": str(out),
        "batch_size": batch_size,
    }
    return jobs.create(
        "catalog", config, out=run, fingerprints={"base": base_fingerprint(base)}
    )


def journal_path(out: Path) -> Path:
    """The journal of an output file."""
    return out.with_name(out.name + ".journal.sqlite")


def run_job(context: jobs.JobContext) -> tuple[str, dict[str, Any]]:
    """Process the table as ``job.json`` says."""
    from ecellm_mlx.backend import RUNTIME
    from ecellm_mlx.inference.answers import Answerer
    from ecellm_mlx.models import loading, lora

    config = context.config
    task, out = find_task(config["task"]), Path(config["out"])
    table = tables.read(Path(config["table"]))
    mapping = mappings.parse(config["mapping"], task, table.header)
    products = mappings.to_products(table, mapping, task, config["instruction"])
    runtime.reset_peak_memory()

    def warn(message: str) -> None:
        context.emit(events.Warned(message=message))

    base = loading.load(config["model"], warn=warn)
    adapter = Path(config["adapter"]) if config["adapter"] else None
    if adapter:
        lora.load(base.model, adapter, base=base.fingerprint)
    answerer = Answerer(base, batch_size=config["batch_size"])
    journal = Journal(journal_path(out), _identity(config, context, adapter))
    started = time.perf_counter()
    try:
        entries = journal.entries()
        context.started(device=RUNTIME.device, total_steps=len(products))
        stopped = _answer_missing(context, answerer, journal, products, entries)
    finally:
        journal.close()
    if stopped:
        return "stopped", {"rows": len(entries), "out": str(out)}
    header, result = _with_answers(table, task, products, entries)
    tables.write(out, table.dialect, header, result)
    return "finished", {
        "rows": len(products),
        "errors": sum(bool(entries[product.key].error) for product in products),
        "out": str(out),
        "rows_per_second": len(products) / (time.perf_counter() - started),
        "tokens_per_second": answerer.speed.tokens_per_second,
        "peak_memory_gb": runtime.peak_memory_gb(),
    }


def _answer_missing(
    context: jobs.JobContext,
    answerer: Answerer,
    journal: Journal,
    products: list[Product],
    entries: dict[str, Entry],
) -> bool:
    """Answer what the journal lacks; True if the job was asked to stop."""
    entries.update({p.key: Entry(p.key, "", error=p.error) for p in products if p.error})
    pending: dict[str, Row] = {
        p.key: p.row for p in products if p.row is not None and p.key not in entries
    }
    keys, rows = list(pending), list(pending.values())
    fresh: list[Entry] = []
    started, done = time.perf_counter(), 0

    def flush() -> bool:
        """Make a batch's answers durable; False to stop after it."""
        nonlocal done
        journal.add(fresh)
        entries.update({entry.key: entry for entry in fresh})
        done += len(fresh)
        fresh.clear()
        context.advance(sum(product.key in entries for product in products))
        context.emit(
            events.Progress(
                stage="catalog",
                done=context.status.step,
                total=len(products),
                unit="rows",
                per_second=done / (time.perf_counter() - started),
            )
        )
        return context.poll() is not jobs.Control.STOP

    for answer in answerer.answer(rows, between=flush):
        fresh.append(Entry(keys[answer.index], answer.prediction, answer.probability))
    return any(product.key not in entries for product in products)


def _with_answers(
    table: tables.Table, task: Task, products: list[Product], entries: dict[str, Entry]
) -> tuple[list[str], list[list[str]]]:
    name = f"ecellm_{task.name.lower()}"
    columns = [name, f"{name}_confidence", f"{name}_error"]
    if clash := [column for column in columns if column in table.header]:
        raise DataError(
            f"{table.path} already has the column {clash[0]!r}",
            cure="rename it, or process the original table",
        )
    result = []
    for cells, product in zip(table.rows, products, strict=True):
        entry = entries[product.key]
        confidence = "" if entry.confidence is None else f"{entry.confidence:.4f}"
        result.append([*cells, entry.answer, confidence, entry.error])
    return [*table.header, *columns], result


def _identity(
    config: dict[str, Any], context: jobs.JobContext, adapter: Path | None
) -> dict[str, Any]:
    """What answers depend on; a journal serves one such identity only."""
    from ecellm_mlx.data.rows import digest

    return {
        "task": config["task"],
        "mapping": sorted(config["mapping"]),
        "instruction": config["instruction"],
        "model": context.job.fingerprints["base"],
        "adapter": digest([adapter / adapter_files.WEIGHTS_FILE]) if adapter else None,
    }
