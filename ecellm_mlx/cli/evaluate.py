"""Verbs that answer: eval, score, generate."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ecellm_mlx.cli import options
from ecellm_mlx.cli.output import emit, emit_json, emit_table, narrate, number


def register(app: typer.Typer) -> None:
    """Add the verbs to the root command."""
    app.command("eval")(evaluate)
    app.command()(score)


def evaluate(
    model: options.Model,
    data: Annotated[Path, typer.Option("--data", "-d", help="A file of rows with answers.")],
    adapter: options.Adapter = None,
    task: Annotated[list[str] | None, typer.Option(help="Only this task; repeatable.")] = None,
    setting: Annotated[
        list[str] | None, typer.Option(help="Only this setting; repeatable.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="A stratified subset.")] = None,
    decoding: Annotated[
        list[str] | None, typer.Option(help="valid or paper; repeatable (default: valid).")
    ] = None,
    batch_size: options.BatchSize = 16,
    out: options.RunFolder = None,
    json: options.Json = False,
) -> None:
    """Predict every row and compute the metrics, as published and strict.

    Example: ecellm eval --model smollm2-135m --adapter RUN --data test.jsonl --limit 100
    """
    from ecellm_mlx import jobs
    from ecellm_mlx.cli.follow import follow
    from ecellm_mlx.evaluation.evaluate import launch

    run = launch(
        model,
        data,
        adapter=adapter,
        tasks=task or (),
        settings=setting or (),
        limit=limit,
        decodings=decoding or ("valid",),
        batch_size=batch_size,
        out=out,
    )
    jobs.start(run)
    results = follow(run)
    if json:
        emit_json({"run": str(run.path), **results})
        return
    for name, scores in results.get("decodings", {}).items():
        _show_scores(f"{name} decoding", scores)
    if results.get("subset"):
        narrate("these are figures of a subset and not comparable with the paper's")
    emit(str(run.path))


def score(
    predictions: Annotated[Path, typer.Option(help="JSONL of {id, prediction}.")],
    labels: Annotated[Path, typer.Option(help="The file of rows that were predicted.")],
    json: options.Json = False,
) -> None:
    """Metrics of existing predictions, in any order.

    Example: ecellm score --predictions predictions.jsonl --labels test.jsonl --json
    """
    from ecellm_mlx.data import rows as rows_module
    from ecellm_mlx.evaluation.metrics import score_by_task
    from ecellm_mlx.evaluation.predictions import read_predictions

    rows = rows_module.load(labels)
    scores = score_by_task(rows, read_predictions(predictions, rows))
    if json:
        emit_json(scores)
    else:
        _show_scores("", scores)


def _show_scores(title: str, scores: dict[str, dict[str, Any]]) -> None:
    from ecellm_mlx.data.tasks import TASKS

    table = []
    for task, by_setting in scores.items():
        for setting, result in by_setting.items():
            key, label = TASKS[task].metric, TASKS[task].metric_label
            table.append(
                [
                    task,
                    setting,
                    str(result["n"]),
                    label,
                    number(result["official"].get(key)),
                    number(result["strict"].get(key)),
                    str(result["invalid"]),
                ]
            )
    columns = ["task", "setting", "n", "metric", "official", "strict", "#invalid"]
    emit_table(title, columns, table)
