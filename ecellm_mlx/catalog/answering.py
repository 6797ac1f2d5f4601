"""Answering a table, its first pass: plan it, then answer what the journal lacks.

Rows are taken in chunks. Inputs that come first in a chunk and were not answered by an
earlier pass are sorted by length and divided into batches; a batch is committed as one
transaction. All of that follows from the table alone, so that a run that was killed and
resumed computes the same batches as one that was not.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import islice
from typing import TYPE_CHECKING

from ecellm_mlx.catalog.guard import Guard
from ecellm_mlx.catalog.journal import BINS, CatalogJournal, Entry
from ecellm_mlx.data.question import Product, Question
from ecellm_mlx.data.rows import Row
from ecellm_mlx.device import runtime
from ecellm_mlx.distributed.shards import Shard
from ecellm_mlx.errors import DataError, JobError
from ecellm_mlx.jobs import Control, JobContext, events
from ecellm_mlx.tables import BadRow, Table, no_rows
from ecellm_mlx.tasks.registry import find as find_task
from ecellm_mlx.tasks.values import Values

if TYPE_CHECKING:
    from ecellm_mlx.inference.answers import Answer, Answerer

MIN_CHUNK_ROWS = 256
BATCHES_PER_CHUNK = 16
METRICS_INTERVAL_S = 1.0
SAMPLE_INTERVAL_S = 10.0
# So many rows whose input was shortened are named; all are counted.
NAMED_SHORTENED = 20


# Answers one batch of rows, in any order.
AnswerBatch = Callable[[Sequence[Row]], Iterator["Answer"]]


class CatalogModel:
    """A model that answers rows, loaded when the first one needs it.

    Often the journal knows all answers.

    Args:
        model: registry name or folder.
        adapter: adapter folder or run.
        batch_size: rows computed at once.
        values: what attribute values may be.
        warn: told what stops nothing.
    """

    def __init__(
        self,
        model: str,
        adapter: str | None = None,
        *,
        batch_size: int,
        values: Values,
        warn: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._model, self._adapter, self._warn = model, adapter, warn
        self._batch_size, self._values = batch_size, values

    def answer(self, rows: Sequence[Row]) -> Iterator[Answer]:
        """Answers of some rows, in any order, each with its confidence if it has one.

        Raises:
            ModelError, AdapterError: they cannot be loaded.
            DataError: a row cannot be asked.
        """
        for answer in self._answerer.answer(rows):
            row = rows[answer.index]
            if answer.probability is not None:
                # Of a typical part, so that one threshold serves lists of any length.
                parts = find_task(row.task).kind.parts(row)
                yield replace(answer, probability=answer.probability ** (1 / parts))
            else:
                yield answer

    @property
    def tokens_per_second(self) -> float:
        """How quick it was; 0 if nothing was asked."""
        loaded = "_answerer" in self.__dict__
        return self._answerer.speed.tokens_per_second if loaded else 0.0

    @cached_property
    def _answerer(self) -> Answerer:
        from ecellm_mlx.inference.answers import Answerer
        from ecellm_mlx.models import loading

        runtime.reset_peak_memory()
        base = loading.load(self._model, self._adapter, warn=self._warn)
        return Answerer(base, batch_size=self._batch_size, values=self._values)


@dataclass
class PassCounts:
    """What a pass has done so far; see ``events.CatalogMetrics``."""

    total: int
    done: int = 0
    computed: int = 0
    errors: int = 0
    rejected: int = 0
    shortened: int = 0
    confidence: list[int] = field(default_factory=lambda: [0] * BINS)
    # Rows that needed work, and the seconds since it began: what a rate is made of.
    worked: int = 0
    started: float = field(default_factory=time.perf_counter)

    @property
    def rows_per_second(self) -> float | None:
        """Rows done a second, those that needed no work left aside."""
        seconds = time.perf_counter() - self.started
        return self.worked / seconds if self.worked and seconds else None


def chunk_rows(batch_size: int) -> int:
    """Rows in a chunk."""
    return max(MIN_CHUNK_ROWS, BATCHES_PER_CHUNK * batch_size)


def plan(table: Table, question: Question, journal: CatalogJournal, size: int) -> None:
    """Write the plan of a table into the journal, chunk by chunk.

    Raises:
        DataError: the table has no rows that can be used.
    """
    rows = 0
    for number, chunk in enumerate(_chunks(table, question, size)):
        journal.plan(number, [p.key for _, p in chunk if p.row])
        rows += len(chunk)
    if not rows:
        _raise_unusable(table)
    journal.planned(rows)


def check_rows(table: Table) -> None:
    """Refuse a table with any row that cannot be used (``--strict``).

    Raises:
        DataError: names the first one.
    """
    for row in table.rows():
        if isinstance(row, BadRow):
            raise DataError.at(
                table.path, row.line, row.reason,
                cure="correct it, or leave --strict out to have such rows put aside",
            )  # fmt: skip


class TablePass:
    """The first pass over a table: answers this rank's chunks.

    Args:
        context: the job, which is told of progress and asked for orders.
        journal: with a complete plan.
        shard: which chunks are ours.
        guard: when to pause.
        answer: the model.
        size: rows in a chunk.
        batch_size: rows computed at once.
    """

    def __init__(
        self,
        context: JobContext,
        journal: CatalogJournal,
        shard: Shard,
        guard: Guard,
        answer: AnswerBatch,
        *,
        size: int,
        batch_size: int,
    ) -> None:
        self.context, self.journal, self.shard = context, journal, shard
        self.guard, self.answer = guard, answer
        self.size, self.batch_size = size, batch_size
        chunks = -(-journal.rows // size)
        # The last chunk may be shorter; only its own rank counts that.
        ours = len(range(shard.rank, chunks, shard.size))
        short = chunks * size - journal.rows if chunks and shard.owns(chunks - 1) else 0
        self.counts = PassCounts(total=ours * size - short, confidence=journal.histogram())
        self._told = self._sampled = 0.0
        self._unit = Table.unit

    def run(self, table: Table, question: Question) -> bool:
        """Answer; returns whether all was done, False if the job was asked to stop."""
        self._unit = table.unit
        for number, chunk in enumerate(_chunks(table, question, self.size)):
            if self.shard.owns(number) and not self._answer_chunk(number, chunk):
                return False
        self._tell(final=True)
        if self.counts.shortened > NAMED_SHORTENED:
            self._warn(
                f"the inputs of {self.counts.shortened} rows were shortened to fit into the "
                "model's context"
            )
        return True

    def _answer_chunk(self, number: int, chunk: Sequence[tuple[int, Product]]) -> bool:
        waiting = Counter(p.key for _, p in chunk if p.row)
        known = self.journal.known(list(waiting))
        if len(known) < len(waiting):
            raise JobError(
                "the table changed while the job ran", cure="start it again with --resume"
            )
        ours: dict[bytes, Row] = {}
        done: set[bytes] = set()
        places: dict[bytes, int] = {}
        for place, product in chunk:
            if product.row is None:
                continue
            places.setdefault(product.key, place)
            of = known[product.key]
            earlier = of.answered_in is not None and of.answered_in != self.journal.pass_id
            if of.chunk == number and not earlier:
                ours[product.key] = product.row
                if of.answered_in is not None:
                    done.add(product.key)
        self.counts.errors += sum(bool(p.error) for _, p in chunk)
        self.counts.done += len(chunk) - sum(waiting[key] for key in ours)
        self.counts.done += sum(waiting[key] for key in done)
        # Length first: rows of similar length waste little padding.
        order = sorted(ours, key=lambda key: (len(ours[key].input), key))
        for start in range(0, len(order), self.batch_size):
            keys = order[start : start + self.batch_size]
            # A batch is committed as a whole, so it is there or not.
            if keys[0] not in done:
                self._answer_batch(keys, [ours[key] for key in keys], waiting, places)
            if self.guard.poll(self.context) is Control.STOP:
                return False
        self._tell()
        return True

    def _answer_batch(
        self,
        keys: Sequence[bytes],
        rows: Sequence[Row],
        weights: Counter[bytes],
        places: Mapping[bytes, int],
    ) -> None:
        cut: dict[bytes, int] = {}
        entries = self._entries(keys, rows, cut)
        self.journal.add(entries)
        for key, tokens in cut.items():
            self._tell_shortened(places[key], tokens, weights[key])
        for entry in entries:
            if entry.confidence is not None:
                place = min(int(entry.confidence * BINS), BINS - 1)
                self.counts.confidence[place] += 1
        count = sum(weights[key] for key in keys)
        self.counts.computed += len(entries)
        self.counts.errors += sum(weights[e.key] for e in entries if e.error)
        self.counts.done += count
        self.counts.worked += count
        now = time.monotonic()
        if now - self._sampled >= SAMPLE_INTERVAL_S:
            self._sampled = now
            row, entry = rows[0], entries[0]
            self.context.emit(
                events.Sample(task=row.task, prompt=row.input, prediction=entry.answer)
            )
        self._tell()

    def _tell_shortened(self, place: int, tokens: int, rows: int) -> None:
        """Say which row lost text; of many, the job tells the number at its end."""
        if self.counts.shortened < NAMED_SHORTENED:
            also = f" and {rows - 1} equal ones" if rows > 1 else ""
            self._warn(
                f"{self._unit} {place}{also}: the prompt is too long for the model, so its "
                f"input was shortened by {tokens} tokens"
            )
        self.counts.shortened += rows

    def _warn(self, message: str) -> None:
        self.context.emit(events.Warned(message=message))

    def _entries(
        self, keys: Sequence[bytes], rows: Sequence[Row], cut: dict[bytes, int]
    ) -> list[Entry]:
        """Answers in the order of ``keys``; a row that cannot be asked gets its error.

        ``cut`` receives the tokens that inputs lost.
        """
        try:
            by_place = {}
            for answer in self.answer(rows):
                key = keys[answer.index]
                by_place[answer.index] = Entry(key, answer.prediction, answer.probability)
                if answer.shortened:
                    cut[key] = answer.shortened
        except DataError as error:
            if len(rows) == 1:
                return [Entry(keys[0], "", error=error.what)]
            return [
                entry
                for key, row in zip(keys, rows, strict=True)
                for entry in self._entries([key], [row], cut)
            ]
        return [by_place[place] for place in range(len(rows))]

    def _tell(self, *, final: bool = False) -> None:
        counts = self.counts
        self.context.advance(counts.done)
        if not final and time.monotonic() - self._told < METRICS_INTERVAL_S:
            return
        self._told = time.monotonic()
        rate = counts.rows_per_second
        self.context.emit(
            events.Progress(
                stage="catalog",
                done=counts.done,
                total=counts.total,
                unit="rows",
                per_second=rate,
            )
        )
        self.context.emit(
            events.CatalogMetrics(
                done=counts.done,
                total=counts.total,
                computed=counts.computed,
                reused=counts.done - counts.worked,
                errors=counts.errors,
                rejected=counts.rejected,
                rows_per_second=rate,
                eta_seconds=(counts.total - counts.done) / rate if rate else None,
                confidence=list(counts.confidence),
            )
        )


def _chunks(table: Table, question: Question, size: int) -> Iterator[list[tuple[int, Product]]]:
    """Products with their place in the table."""
    product_of = question.reader(table.names)
    products = ((row.line, product_of(row.cells)) for row in table.good_rows())
    while chunk := list(islice(products, size)):
        yield chunk


def _raise_unusable(table: Table) -> None:
    for row in table.rows():
        if isinstance(row, BadRow):
            raise DataError.at(
                table.path, row.line, f"no row can be used; the first one: {row.reason}",
                cure="correct the file, or name its --encoding or --delimiter",
            )  # fmt: skip
    raise no_rows(table.path)
