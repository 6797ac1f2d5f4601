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
from ecellm_mlx.data.prompts import Frame
from ecellm_mlx.data.rows import Row
from ecellm_mlx.device import runtime
from ecellm_mlx.errors import DataError, JobError, UsageError
from ecellm_mlx.evaluation import endpoint as endpoints
from ecellm_mlx.evaluation import journal as journals
from ecellm_mlx.evaluation import local, thresholds
from ecellm_mlx.evaluation.endpoint import Api, Endpoint
from ecellm_mlx.evaluation.journal import Journal, Record
from ecellm_mlx.files import write_atomic, write_json
from ecellm_mlx.jobs import events
from ecellm_mlx.models import adapter_files, registry
from ecellm_mlx.models.fingerprint import base_fingerprint
from ecellm_mlx.tasks.registry import find as find_task
from ecellm_mlx.tasks.values import Values
from ecellm_mlx.tasks.values import parse as parse_values

if TYPE_CHECKING:
    from ecellm_mlx.evaluation.bertscore import BertScorer

DECODINGS = ("valid", "paper")
# Keys of the journal that predictions do without.
INTERNAL = ("decoding", "shortened")
SUBSET_SEED = 0
CONCURRENCY = 4
PROGRESS_S = 1.0


def launch(
    model: str,
    data: Path,
    *,
    adapter: str | None = None,
    tasks: Sequence[str] = (),
    settings: Sequence[str] = (),
    limit: int | None = None,
    decodings: Sequence[str] = (),
    values: str = "free",
    batch_size: int = 16,
    seed: int = 42,
    endpoint: str | None = None,
    api: str = Api.COMPLETIONS,
    frame: str = Frame.ALPACA,
    concurrency: int = CONCURRENCY,
    timeout_s: float = 120.0,
    baseline: str | None = None,
    threshold_from: str | None = None,
    bertscore: Path | None = None,
    bertscore_layer: int | None = None,
    out: Path | None = None,
) -> jobs.RunDirectory:
    """Create the run directory of an evaluation; ``jobs.start`` starts it.

    Args:
        model: registry name or folder; with ``endpoint`` the model's name there.
        data: a file of rows.
        adapter: adapter folder or run.
        tasks, settings: which rows; all when empty.
        limit: at most so many rows, alike in make-up to all.
        decodings: ``valid`` and ``paper``; an endpoint only knows ``paper``.
        values: ``source`` takes attribute values from the row's text only, ``free`` lets
            the model write them; of the ``valid`` decoding.
        batch_size, seed: of the computation here.
        endpoint: base address of a server to ask instead.
        api, frame, concurrency, timeout_s: how to ask it.
        baseline: an earlier evaluation to show beside this one in the report.
        threshold_from: a finished evaluation of validation rows, to choose yes/no
            thresholds on.
        bertscore, bertscore_layer: model folder for scores of generated text.
        out: run directory; a new one in the workspace when not given.

    Raises:
        ModelError, AdapterError, DataError: what is wrong, before anything starts.
        UsageError: unknown or contradictory options.
    """
    decodings = decodings or (("paper",) if endpoint else ("valid",))
    if unknown := [d for d in decodings if d not in DECODINGS]:
        raise UsageError(f"--decoding {unknown[0]} is unknown", expected=" or ".join(DECODINGS))
    if parse_values(values) is Values.SOURCE and "valid" not in decodings:
        raise UsageError(
            "--values source has no effect without --decoding valid",
            cure="leave --values out: free generation follows no grammar",
        )
    if threshold_from:
        thresholds.choose(jobs.find(threshold_from).path)
    names = [find_task(task).name for task in tasks]
    select(data, names, settings, limit)
    config: dict[str, Any] = {
        "model": model,
        "model_name": model,
        "adapter": str(adapter_files.folder_of(adapter)) if adapter else None,
        "data": str(data.absolute()),
        "tasks": names,
        "settings": list(settings),
        "limit": limit,
        "decodings": list(decodings),
        "values": values,
        "batch_size": batch_size,
        "seed": seed,
        "endpoint": None,
        "baseline": str(jobs.find(baseline).path) if baseline else None,
        "threshold_from": str(jobs.find(threshold_from).path) if threshold_from else None,
        "bertscore": str(bertscore.absolute()) if bertscore else None,
        "bertscore_layer": bertscore_layer,
    }
    fingerprints = {"data": rows_module.digest([data])}
    if endpoint:
        config["endpoint"] = _endpoint_config(
            endpoint, decodings, adapter, api, frame, concurrency, timeout_s
        )
    else:
        base = registry.resolve(model)
        config["model"] = str(base.absolute())
        fingerprints["base"] = base_fingerprint(base)
        if config["adapter"]:
            weights = Path(config["adapter"]) / adapter_files.WEIGHTS_FILE
            fingerprints["adapter"] = rows_module.digest([weights])
    return jobs.create("eval", config, out=out, fingerprints=fingerprints)


def select(
    data: Path, tasks: Sequence[str], settings: Sequence[str], limit: int | None
) -> list[Row]:
    """The rows to evaluate: filtered, then a stratified subset.

    Raises:
        DataError: none are left.
    """
    chosen = rows_module.load(data, tasks=list(tasks) or None, settings=list(settings) or None)
    return rows_module.stratified(chosen, limit, SUBSET_SEED) if limit else chosen


def run_job(context: jobs.JobContext) -> tuple[str, dict[str, Any]]:
    """Evaluate as ``job.json`` says, going on from what the journal has."""
    config = context.config
    data = Path(config["data"])
    rows = select(data, config["tasks"], config["settings"], config["limit"])
    _check_unchanged(context, "data", rows_module.digest([data]))
    # A wrong folder must not cost an evaluation first.
    scorer = _text_scorer(config)
    journal = Journal(context.run.path / journals.FILE)
    run = _Run(context, rows, journal)
    produce = run.from_endpoint if config["endpoint"] else run.from_model
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
    _write_report(context)
    context.emit(events.EvalMetrics(step=run.total, loss=None, metrics=results["decodings"]))
    # Breakdowns are in metrics.json; an event is one line.
    return "finished", {key: value for key, value in results.items() if key != "details"}


class _Run:
    """One process's share of an evaluation: where answers come from and what they add to."""

    def __init__(self, context: jobs.JobContext, rows: list[Row], journal: Journal) -> None:
        self.context, self.rows, self.journal = context, rows, journal
        self.config = context.config
        self.decodings: list[str] = self.config["decodings"]
        self.total = len(rows) * len(self.decodings)
        self.tokens_per_second: float | None = None
        self.peak_memory_gb: float | None = None
        self._began_with = len(journal)
        self._started = time.perf_counter()
        self._reported = 0.0

    def from_model(self) -> Iterator[list[Record]]:
        """Answers of the model on this machine."""
        from ecellm_mlx.inference.answers import Answerer, Decoding
        from ecellm_mlx.models import loading

        config = self.config
        _check_unchanged(self.context, "base", base_fingerprint(Path(config["model"])))
        if config["adapter"]:
            weights = Path(config["adapter"]) / adapter_files.WEIGHTS_FILE
            _check_unchanged(self.context, "adapter", rows_module.digest([weights]))
        runtime.reset_peak_memory()
        base = loading.load(config["model"], config["adapter"], warn=self.warn)
        answerer = Answerer(
            base,
            batch_size=config["batch_size"],
            seed=config["seed"],
            values=Values(config["values"]),
            warn=self.warn,
        )
        self._announce(device.name())
        decodings = [Decoding(name) for name in self.decodings]
        yield from local.answer(answerer, self.rows, decodings, self.journal, self.proceed)
        self.tokens_per_second = answerer.speed.tokens_per_second
        self.peak_memory_gb = runtime.peak_memory_gb()

    def from_endpoint(self) -> Iterator[list[Record]]:
        """Answers of a server."""
        asked = self.config["endpoint"]
        server = Endpoint(
            url=asked["url"],
            model=self.config["model"],
            api=Api(asked["api"]),
            frame=Frame(asked["frame"]),
            seed=self.config["seed"],
            timeout_s=asked["timeout_s"],
        )
        self._announce(server.url)
        decoding = self.decodings[0]
        yield from endpoints.answer(
            server,
            [row for row in self.rows if (decoding, row.id) not in self.journal],
            decoding,
            concurrency=asked["concurrency"],
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
            found = self.journal.records.get(decoding, {})
            lines = [
                json.dumps(
                    {k: v for k, v in found[row.id].items() if k not in INTERNAL},
                    ensure_ascii=False,
                )
                for row in self.rows
                if row.id in found
            ]
            write_atomic(
                self.context.run.path / predictions_name(decoding, self.decodings),
                "".join(line + "\n" for line in lines),
            )

    def results(self, scorer: BertScorer | None) -> dict[str, Any]:
        """The content of ``metrics.json``."""
        from ecellm_mlx.evaluation.details import details
        from ecellm_mlx.evaluation.metrics import score_by_task

        source = self.config["threshold_from"]
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
            "model": self.config["model_name"],
            "adapter": self.config["adapter"],
            "endpoint": self.config["endpoint"],
            "data": self.config["data"],
            "made": self._made(),
            "n": len(self.rows),
            "subset": bool(self.config["limit"]),
            "values": self.config["values"],
            "shortened": len(self.shortened()),
            "bertscore": scorer.about if scorer else None,
            "decodings": scores,
            "details": more,
            "tokens_per_second": self.tokens_per_second,
            "peak_memory_gb": self.peak_memory_gb,
        }

    def _made(self) -> dict[str, Any]:
        """How the answers came about, in words and numbers for the report."""
        job = self.context.job
        day = time.strftime("%Y-%m-%d", time.gmtime(job.created))
        local = {"rows at once": self.config["batch_size"], "values": self.config["values"]}
        asked = self.config["endpoint"] or {}
        remote = {"interface": asked.get("api"), "prompt frame": asked.get("frame")}
        return {
            "begun": day,
            "seed": self.config["seed"],
            **(remote if asked else local),
            "limit": self.config["limit"],
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


def _endpoint_config(
    url: str,
    decodings: Sequence[str],
    adapter: str | None,
    api: str,
    frame: str,
    concurrency: int,
    timeout_s: float,
) -> dict[str, Any]:
    if adapter:
        raise UsageError(
            "--adapter has no effect with --endpoint",
            cure="start the server with the adapter: `ecellm serve --model M --adapter A`",
        )
    if list(decodings) != ["paper"]:
        raise UsageError(
            "--decoding valid needs the model on this machine",
            expected="--decoding paper, or none, with --endpoint",
        )
    for option, value, known in (("--api", api, Api), ("--frame", frame, Frame)):
        if value not in list(known):
            raise UsageError(f"{option} {value} is unknown", expected=" or ".join(known))
    return {
        "url": endpoints.parse_url(url),
        "api": str(api),
        "frame": str(frame),
        "concurrency": concurrency,
        "timeout_s": timeout_s,
    }


def _check_unchanged(context: jobs.JobContext, what: str, digest: str) -> None:
    """Answers of one run are all of the same model and rows."""
    if digest != context.job.fingerprints[what]:
        raise JobError(
            f"the {what} of {context.run.path} changed since the run was started",
            cure="put the original back, or start a new run",
        )


def _text_scorer(config: dict[str, Any]) -> BertScorer | None:
    if not config["bertscore"]:
        return None
    from ecellm_mlx.evaluation.bertscore import BertScorer

    return BertScorer(Path(config["bertscore"]), layer=config["bertscore_layer"])


def _write_report(context: jobs.JobContext) -> None:
    from ecellm_mlx.evaluation import report

    runs = [context.run.path]
    if baseline := context.config["baseline"]:
        runs.insert(0, Path(baseline))
    try:
        report.write(context.run.path, runs)
    except DataError as error:
        # The figures are there; a baseline of other rows must not cost them.
        context.emit(events.Warned(message=f"there is no report: {error}"))
