"""The evaluation job: predictions of every row, then metrics.

Writes ``predictions.jsonl`` (``predictions.paper.jsonl`` for a second decoding) and
``metrics.json`` into its run. A subset of the rows is flagged as such: its numbers
are not comparable with the paper's.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ecellm_mlx import events, jobs, runtime
from ecellm_mlx.data import rows as rows_module
from ecellm_mlx.data.rows import Row
from ecellm_mlx.data.tasks import find as find_task
from ecellm_mlx.errors import UsageError
from ecellm_mlx.files import write_atomic, write_json
from ecellm_mlx.models import adapter_files, registry
from ecellm_mlx.models.fingerprint import base_fingerprint

DECODINGS = ("valid", "paper")
SUBSET_SEED = 0


def launch(
    model: str,
    data: Path,
    *,
    adapter: str | None = None,
    tasks: Sequence[str] = (),
    settings: Sequence[str] = (),
    limit: int | None = None,
    decodings: Sequence[str] = ("valid",),
    batch_size: int = 16,
    seed: int = 42,
    out: Path | None = None,
) -> jobs.RunDirectory:
    """Create the run directory of an evaluation; ``jobs.start`` starts it.

    Raises:
        ModelError, AdapterError, DataError: what is wrong, before anything starts.
        UsageError: an unknown decoding.
    """
    if unknown := [d for d in decodings if d not in DECODINGS]:
        raise UsageError(f"--decoding {unknown[0]} is unknown", expected=" or ".join(DECODINGS))
    base = registry.resolve(model)
    names = [find_task(task).name for task in tasks]
    select(data, names, settings, limit)
    config = {
        "model": str(base.absolute()),
        "model_name": model,
        "adapter": str(adapter_files.folder_of(adapter)) if adapter else None,
        "data": str(data.absolute()),
        "tasks": names,
        "settings": list(settings),
        "limit": limit,
        "decodings": list(decodings),
        "batch_size": batch_size,
        "seed": seed,
    }
    fingerprints = {"base": base_fingerprint(base), "data": rows_module.digest([data])}
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
    """Evaluate as ``job.json`` says."""
    from ecellm_mlx.backend import RUNTIME
    from ecellm_mlx.inference.answers import Answerer, Decoding
    from ecellm_mlx.models import loading, lora

    config = context.config
    rows = select(Path(config["data"]), config["tasks"], config["settings"], config["limit"])
    runtime.reset_peak_memory()

    def warn(message: str) -> None:
        context.emit(events.Warned(message=message))

    base = loading.load(config["model"], warn=warn)
    if config["adapter"]:
        lora.load(base.model, Path(config["adapter"]), base=base.fingerprint)
    answerer = Answerer(base, batch_size=config["batch_size"], seed=config["seed"])
    decodings = [Decoding(name) for name in config["decodings"]]
    total = len(rows) * len(decodings)
    context.started(device=RUNTIME.device, total_steps=total)
    records: dict[str, dict[str, dict[str, Any]]] = {d: {} for d in decodings}
    done = 0
    for answer in answerer.answer(
        rows, decodings, between=lambda: context.poll() is not jobs.Control.STOP
    ):
        row = rows[answer.index]
        records[answer.decoding][row.id] = _record(row, answer.prediction, answer.probability)
        done += 1
        context.advance(done)
        if done % config["batch_size"] == 0 or done == total:
            speed = done / answerer.speed.seconds if answerer.speed.seconds else None
            context.emit(
                events.Progress(
                    stage="evaluate", done=done, total=total, unit="answers", per_second=speed
                )
            )
    for decoding, found in records.items():
        _write_predictions(
            context.run.path / predictions_name(decoding, decodings), rows, found
        )
    if done < total:
        return "stopped", {"answers": done}
    results = _results(rows, records, config, answerer.speed.tokens_per_second)
    write_json(context.run.path / "metrics.json", results)
    context.emit(events.EvalMetrics(step=total, loss=None, metrics=results["decodings"]))
    return "finished", results


def predictions_name(decoding: str, decodings: Sequence[str]) -> str:
    """File name of a decoding's predictions; the first one has the plain name."""
    return "predictions.jsonl" if decoding == decodings[0] else f"predictions.{decoding}.jsonl"


def _results(
    rows: list[Row],
    records: dict[str, dict[str, dict[str, Any]]],
    config: dict[str, Any],
    tokens_per_second: float,
) -> dict[str, Any]:
    from ecellm_mlx.evaluation.metrics import score_by_task

    return {
        "model": config["model_name"],
        "adapter": config["adapter"],
        "data": config["data"],
        "n": len(rows),
        "subset": bool(config["limit"]),
        "decodings": {
            decoding: score_by_task(rows, {i: r["prediction"] for i, r in found.items()})
            for decoding, found in records.items()
        },
        "tokens_per_second": tokens_per_second,
        "peak_memory_gb": runtime.peak_memory_gb(),
    }


def _record(row: Row, prediction: str, probability: float | None) -> dict[str, Any]:
    record: dict[str, Any] = {
        "id": row.id,
        "task": row.task,
        "setting": row.setting,
        "prediction": prediction,
    }
    if probability is not None:
        record["probability"] = round(probability, 6)
    return record


def _write_predictions(path: Path, rows: list[Row], found: dict[str, dict[str, Any]]) -> None:
    lines = [json.dumps(found[row.id], ensure_ascii=False) for row in rows if row.id in found]
    write_atomic(path, "".join(line + "\n" for line in lines))
