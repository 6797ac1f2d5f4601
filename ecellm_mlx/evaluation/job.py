"""The evaluation job: an answer for every row, then metrics and a report.

Writes into its run:

    answers.jsonl      the journal, which a resumed run goes on from
    predictions.jsonl  in the order of the rows; predictions.paper.jsonl for a second decoding
    metrics.json       scores, intervals and breakdowns
    report.html, .md   the same for people

A subset of the rows is flagged as such: its numbers are not comparable with the paper's.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ecellm_mlx import device, jobs
from ecellm_mlx.data import rows as rows_module
from ecellm_mlx.data.rows import Row
from ecellm_mlx.device import runtime
from ecellm_mlx.errors import DataError, JobError
from ecellm_mlx.evaluation import journal as journals
from ecellm_mlx.evaluation import local, thresholds
from ecellm_mlx.evaluation.journal import AnswerLog, Record
from ecellm_mlx.evaluation.settings import EvaluationSettings
from ecellm_mlx.files import write_atomic, write_json
from ecellm_mlx.jobs import events
from ecellm_mlx.models.fingerprint import base_fingerprint

if TYPE_CHECKING:
    from ecellm_mlx.evaluation.bertscore import BertScorer

# Keys of the journal that predictions do without.
INTERNAL = ("decoding", "shortened")
SUBSET_SEED = 0
PROGRESS_S = 1.0


def create(settings: EvaluationSettings, out: Path | None = None) -> jobs.RunDirectory:
    """Create the run directory of an evaluation; ``jobs.start`` starts it.

    Args:
        settings: what the user asks for.
        out: run directory; a new one in the workspace when not given.

    Raises:
        ModelError, AdapterError, DataError: what is wrong, before anything starts.
        UsageError: an unknown task, or an endpoint that is no address.
        JobError: an earlier evaluation that is not there; ``out`` holds a run.
    """
    settings = settings.resolved()
    if settings.threshold_from:
        thresholds.choose(Path(settings.threshold_from))
    rows_of(settings)
    fingerprints = {"data": rows_module.digest([settings.data])}
    if not settings.endpoint:
        fingerprints["base"] = base_fingerprint(Path(settings.model))
    if settings.adapter_weights:
        fingerprints["adapter"] = rows_module.digest([settings.adapter_weights])
    return jobs.create("eval", settings.to_json(), out=out, fingerprints=fingerprints)


def rows_of(settings: EvaluationSettings) -> list[Row]:
    """The rows to evaluate: filtered, then a stratified subset.

    Raises:
        DataError: none are left.
    """
    chosen = rows_module.load(
        settings.data,
        tasks=list(settings.tasks) or None,
        settings=list(settings.settings) or None,
    )
    limit = settings.limit
    return rows_module.stratified(chosen, limit, SUBSET_SEED) if limit else chosen


def run_job(context: jobs.JobContext) -> tuple[str, dict[str, Any]]:
    """Evaluate as ``job.json`` says, going on from what the journal has."""
    settings = EvaluationSettings.from_json(context.config)
    rows = rows_of(settings)
    _check_unchanged(context, "data", rows_module.digest([settings.data]))
    # A wrong folder must not cost an evaluation first.
    scorer = _text_scorer(settings)
    journal = AnswerLog(context.run.path / journals.FILE)
    run = _Evaluation(context, settings, rows, journal)
    produce = run.from_endpoint if settings.endpoint else run.from_model
    try:
        # A run that was killed behind its last answer needs no model any more.
        for records in produce() if len(journal) < run.total else ():
            journal.add(records)
            run.report(force=True)
    finally:
        journal.close()
        run.write_predictions()
    if len(journal) < run.total:
        return "stopped", {"answers": len(journal)}
    if cut := run.shortened():
        run.warn(
            f"the inputs of {len(cut)} of {len(rows)} rows were shortened to fit into the "
            "model's context"
        )
    results = run.results(scorer)
    write_json(context.run.path / "metrics.json", results)
    _write_report(context, settings)
    context.emit(events.EvalMetrics(step=run.total, loss=None, metrics=results["decodings"]))
    # Breakdowns are in metrics.json; an event is one line.
    return "finished", {key: value for key, value in results.items() if key != "details"}


class _Evaluation:
    """One process's share of an evaluation: where answers come from and what they add to."""

    def __init__(
        self,
        context: jobs.JobContext,
        settings: EvaluationSettings,
        rows: list[Row],
        journal: AnswerLog,
    ) -> None:
        self.context, self.settings, self.rows, self.journal = context, settings, rows, journal
        self.decodings = settings.decodings
        self.total = len(rows) * len(self.decodings)
        self.tokens_per_second: float | None = None
        self.peak_memory_gb: float | None = None
        self._began_with = len(journal)
        self._started = time.perf_counter()
        self._reported = 0.0

    def from_model(self) -> Iterator[list[Record]]:
        """Answers of the model on this machine."""
        from ecellm_mlx.inference.answers import Answerer
        from ecellm_mlx.models import loading

        settings = self.settings
        _check_unchanged(self.context, "base", base_fingerprint(Path(settings.model)))
        if weights := settings.adapter_weights:
            _check_unchanged(self.context, "adapter", rows_module.digest([weights]))
        runtime.reset_peak_memory()
        base = loading.load(settings.model, settings.adapter, warn=self.warn)
        answerer = Answerer(
            base,
            batch_size=settings.batch_size,
            seed=settings.seed,
            values=settings.values,
            warn=self.warn,
        )
        self._announce(device.name())
        yield from local.records(
            answerer, self.rows, self.decodings, self.journal, self.proceed
        )
        self.tokens_per_second = answerer.speed.tokens_per_second
        self.peak_memory_gb = runtime.peak_memory_gb()

    def from_endpoint(self) -> Iterator[list[Record]]:
        """Answers of a server."""
        from ecellm_mlx.evaluation import endpoint as endpoints

        settings = self.settings
        assert settings.endpoint
        server = endpoints.Endpoint(
            url=settings.endpoint,
            model=settings.model,
            api=settings.api,
            frame=settings.frame,
            seed=settings.seed,
            timeout_s=settings.timeout_s,
        )
        self._announce(server.url)
        decoding = self.decodings[0]
        yield from endpoints.answer(
            server,
            [row for row in self.rows if (decoding, row.id) not in self.journal],
            decoding,
            concurrency=settings.concurrency,
            proceed=self.proceed,
            warn=self.warn,
        )

    def warn(self, message: str) -> None:
        """Tell the user something that stops nothing."""
        self.context.emit(events.Warned(message=message))

    def proceed(self, pending: int = 0) -> bool:
        """Report progress and obey orders; False to stop. ``pending`` are not yet kept."""
        self.report(pending)
        return self.context.poll() is not jobs.Control.STOP

    def report(self, pending: int = 0, *, force: bool = False) -> None:
        """Emit how far the run is, at most once a second."""
        done = len(self.journal) + pending
        self.context.advance(done)
        now = time.perf_counter()
        if not force and now - self._reported < PROGRESS_S:
            return
        self._reported = now
        self.context.emit(
            events.Progress(
                stage="evaluate",
                done=done,
                total=self.total,
                unit="answers",
                per_second=(done - self._began_with) / (now - self._started),
            )
        )

    def write_predictions(self) -> None:
        """Write what there is in the order of the rows, also of an unfinished run."""
        for decoding in self.decodings:
            records = self.journal.records.get(decoding, {})
            lines = [
                json.dumps(
                    {k: v for k, v in records[row.id].items() if k not in INTERNAL},
                    ensure_ascii=False,
                )
                for row in self.rows
                if row.id in records
            ]
            write_atomic(
                self.context.run.path / predictions_name(decoding, self.decodings),
                "".join(line + "\n" for line in lines),
            )

    def results(self, scorer: BertScorer | None) -> dict[str, Any]:
        """The content of ``metrics.json``."""
        from ecellm_mlx.evaluation.details import details
        from ecellm_mlx.evaluation.metrics import score_by_task

        settings = self.settings
        source = settings.threshold_from
        chosen = thresholds.choose(Path(source)) if source else {}
        scores, more = {}, {}
        # In the order of the files: readers know the first decoding by it.
        for decoding in self.decodings:
            records = self.journal.records[decoding]
            answers = {i: r["prediction"] for i, r in records.items()}
            probabilities = {
                i: r["probability"] for i, r in records.items() if "probability" in r
            }
            scores[decoding] = score_by_task(self.rows, answers, text_scorer=scorer)
            more[decoding] = details(
                self.rows,
                answers,
                probabilities=probabilities,
                thresholds=chosen,
                text_scorer=scorer,
            )
        return {
            "model": settings.model_name,
            "adapter": settings.adapter,
            "endpoint": settings.to_json()["endpoint"],
            "data": str(settings.data),
            "made": self._made(),
            "n": len(self.rows),
            "subset": bool(settings.limit),
            "values": str(settings.values),
            "shortened": len(self.shortened()),
            "bertscore": scorer.about if scorer else None,
            "decodings": scores,
            "details": more,
            "tokens_per_second": self.tokens_per_second,
            "peak_memory_gb": self.peak_memory_gb,
        }

    def _made(self) -> dict[str, Any]:
        """How the answers came about, in words and numbers for the report."""
        job, settings = self.context.job, self.settings
        day = time.strftime("%Y-%m-%d", time.gmtime(job.created))
        local = {"rows at once": settings.batch_size, "values": str(settings.values)}
        remote = {"interface": str(settings.api), "prompt frame": str(settings.frame)}
        return {
            "begun": day,
            "seed": settings.seed,
            **(remote if settings.endpoint else local),
            "limit": settings.limit,
            **job.versions,
        }

    def shortened(self) -> set[str]:
        """Ids of the rows whose input was cut, because the prompt was too long."""
        return {
            identity
            for records in self.journal.records.values()
            for identity, record in records.items()
            if record.get("shortened")
        }

    def _announce(self, device: str) -> None:
        resumed = self._began_with or None
        self.context.started(device=device, total_steps=self.total, resumed_from=resumed)
        self.context.advance(self._began_with)


def predictions_name(decoding: str, decodings: Sequence[str]) -> str:
    """File name of a decoding's predictions; the first one has the plain name."""
    return "predictions.jsonl" if decoding == decodings[0] else f"predictions.{decoding}.jsonl"


def _check_unchanged(context: jobs.JobContext, what: str, digest: str) -> None:
    """Answers of one run are all of the same model and rows."""
    if digest != context.job.fingerprints[what]:
        raise JobError(
            f"the {what} of {context.run.path} changed since the run was started",
            cure="put the original back, or start a new run",
        )


def _text_scorer(settings: EvaluationSettings) -> BertScorer | None:
    if not settings.bertscore:
        return None
    from ecellm_mlx.evaluation.bertscore import BertScorer

    return BertScorer(settings.bertscore, layer=settings.bertscore_layer)


def _write_report(context: jobs.JobContext, settings: EvaluationSettings) -> None:
    from ecellm_mlx.evaluation import report

    runs = [context.run.path]
    if settings.baseline:
        runs.insert(0, Path(settings.baseline))
    try:
        report.write(context.run.path, runs)
    except DataError as error:
        # The figures are there; a baseline of other rows must not cost them.
        context.emit(events.Warned(message=f"there is no report: {error}"))
