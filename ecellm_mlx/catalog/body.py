"""What every catalog job does, whatever its table: prepare, load the model, answer, exchange.

``job`` and ``matching`` say which table is asked and what is made of the answers.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ecellm_mlx import device as compute_device
from ecellm_mlx import jobs
from ecellm_mlx.catalog import answering, asking
from ecellm_mlx.catalog.guard import Guard
from ecellm_mlx.catalog.journal import Journal
from ecellm_mlx.data.question import Question
from ecellm_mlx.data.rows import Row, digest
from ecellm_mlx.device import runtime
from ecellm_mlx.distributed import shards
from ecellm_mlx.distributed.launched import launched_rank
from ecellm_mlx.errors import JobError
from ecellm_mlx.files import ensure_folder
from ecellm_mlx.jobs import events
from ecellm_mlx.models import adapter_files, registry
from ecellm_mlx.models.fingerprint import base_fingerprint
from ecellm_mlx.tables import Table


@dataclass(frozen=True)
class Setup:
    """The settings that all catalog jobs have.

    Attributes:
        model, adapter: what answers; None for a job that asks no model.
        out: the file to write.
        batch_size: rows computed at once.
        resume: go on with an output's journal.
        new: keep answers apart from those of other settings in the same journal.
        pause_on_battery: charge in percent under which an unplugged machine pauses.
        pause_on_memory: available memory in GiB under which the job pauses.
        run: the run directory; a new one in the workspace when not given.
    """

    model: str | None
    out: Path
    adapter: str | None = None
    batch_size: int = 16
    resume: bool = False
    new: bool = False
    pause_on_battery: float | None = None
    pause_on_memory: float | None = None
    run: Path | None = None


@dataclass
class Answers:
    """The first pass of a job.

    ``ended`` is the job's outcome where this process has nothing more to do: it was
    stopped, or another rank writes.
    """

    journal: Journal
    tally: answering.Tally
    speed: Callable[[], float]
    ended: str | None = None


def create(
    kind: str, question: Question, config: dict[str, Any], setup: Setup
) -> jobs.RunDirectory:
    """Create the run directory of a job with its own ``config`` and the common settings.

    Raises:
        StorageError: the folder of ``out`` cannot be written.
        ModelError: there is no such model or adapter.
        JobError: see ``check_journal``; or the run directory is in use.
    """
    base = registry.resolve(setup.model) if setup.model else None
    out = setup.out.absolute()
    ensure_folder(out.parent)
    adapter = str(adapter_files.folder_of(setup.adapter)) if setup.adapter else None
    config = {
        **config,
        "question": question.to_dict(),
        "task": question.task_name,
        "model": str(base.absolute()) if base else None,
        "model_name": setup.model,
        "adapter": adapter,
        "out": str(out),
        "batch_size": setup.batch_size,
        "new": setup.new,
        "pause_on_battery": setup.pause_on_battery,
        "pause_on_memory": setup.pause_on_memory,
    }
    fingerprints = {"base": base_fingerprint(base)} if base else {}
    check_journal(config, fingerprints.get("base"), out, resume=setup.resume, new=setup.new)
    return jobs.create(kind, config, out=setup.run, fingerprints=fingerprints)


def check_journal(
    config: dict[str, Any], base: str | None, out: Path, *, resume: bool, new: bool
) -> None:
    """Refuse an output that another run made, where the user is still looking.

    Raises:
        JobError: it exists and neither ``resume`` nor ``new`` was asked for, or its journal
            is of other settings.
    """
    journal = shards.journal_path(out, launched_rank())
    if base and journal.exists() and (resume or new):
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


@contextlib.contextmanager
def answers(context: jobs.JobContext, table: Table, source: str) -> Iterator[Answers]:
    """Answer this rank's part of ``table`` and, when all ranks are done, share the answers.

    The journal is open, and locked, for the time of the block.

    Args:
        context: the job.
        table: what is asked about, row by row.
        source: fingerprint of the table and of how it is divided into batches.

    Raises:
        JobError: this rank's part or another one's failed.
    """
    config = context.config
    question = Question.from_dict(config["question"])
    shard = shards.join()
    journal_file = shards.journal_path(Path(config["out"]), shard.rank)
    who = identity(config, context.job.fingerprints["base"])
    size = answering.chunk_rows(config["batch_size"])
    with contextlib.ExitStack() as stack:
        with shard.reporting():
            journal = stack.enter_context(Journal(journal_file, who, new=config["new"]))
            if not journal.begin(source):
                answering.plan(table, question, journal, size)
            model = Model(context)
            pass_ = answering.Answering(
                context,
                journal,
                shard,
                Guard(config["pause_on_battery"], config["pause_on_memory"]),
                model.ask,
                size=size,
                batch_size=config["batch_size"],
            )
            context.started(device=device(), total_steps=pass_.tally.total)
            done = pass_.run(table, question)
        found = Answers(journal, pass_.tally, model.speed)
        if not shard.all_done(done):
            found.ended = "stopped"
        else:
            shard.exchange(journal.blocks(), journal.add_block)
            if shard.rank:
                found.ended = "finished"
        yield found


class Model:
    """A job's model, loaded when the first row needs it: often the journal knows all."""

    def __init__(self, context: jobs.JobContext) -> None:
        self._context = context
        self._loaded: tuple[answering.Ask, Callable[[], float]] | None = None

    def ask(self, rows: Sequence[Row]) -> Iterator[answering.Answered]:
        """Answers to some rows."""
        if self._loaded is None:
            self._loaded = load_model(self._context)
        return self._loaded[0](rows)

    def speed(self) -> float:
        """Tokens a second; 0 if nothing was asked."""
        return self._loaded[1]() if self._loaded else 0.0


def load_model(context: jobs.JobContext) -> tuple[answering.Ask, Callable[[], float]]:
    """The job's model as a function that answers rows, and one that tells its speed."""
    from ecellm_mlx.models import loading

    config = context.config
    runtime.reset_peak_memory()
    base = loading.load(
        config["model"],
        config["adapter"],
        warn=lambda text: context.emit(events.Warned(message=text)),
    )
    return asking.asker(base, config["batch_size"], config["values"])


def device() -> str:
    """What computes."""
    return compute_device.name()
