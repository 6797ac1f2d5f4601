"""Verbs that judge answers: eval, score, compare, report."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ecellm_mlx.cli import options
from ecellm_mlx.cli.output import emit, emit_json, emit_table, narrate, number
from ecellm_mlx.evaluation.settings import EvaluationSettings

if TYPE_CHECKING:
    from ecellm_mlx.tasks.tally import TextScorer

Labels = Annotated[Path, typer.Option(help="The file of rows that were predicted.")]
BertScore = Annotated[
    Path | None, typer.Option(help="Folder of roberta-large, for BERTScore of answers.")
]
BertScoreLayer = Annotated[
    int | None, typer.Option(help="Layer of another model than roberta-large.")
]


def register(app: typer.Typer) -> None:
    """Add the verbs to the root command."""
    app.command("eval")(evaluate)
    app.command()(score)
    app.command()(compare)
    app.command()(report)


@options.grouped
def evaluate(
    settings: EvaluationSettings,
    *,
    out: options.RunFolder = None,
    detach: Annotated[bool, typer.Option("--detach", help="Return at once.")] = False,
    json: options.Json = False,
) -> None:
    """Predict every row and compute the metrics, as published and strict.

    Example: ecellm eval --model smollm2-135m --adapter RUN --data test.jsonl --limit 100
    """
    from ecellm_mlx import jobs
    from ecellm_mlx.cli.follow import follow
    from ecellm_mlx.errors import JobError
    from ecellm_mlx.evaluation.job import create
    from ecellm_mlx.evaluation.journal import count as count_kept

    run = create(settings, out)
    jobs.start(run)
    if detach:
        narrate(f"started; watch it with `ecellm watch {run.path}`")
        emit(str(run.path))
        return
    try:
        results = follow(run)
    except JobError:
        if kept := count_kept(run.path):
            narrate(f"{kept} answers are kept; `ecellm resume {run.path}` goes on from there")
        raise
    if json:
        emit_json({"run": str(run.path), **results})
        return
    for name, scores in results.get("decodings", {}).items():
        _show_scores(f"{name} decoding", scores)
        _narrate_gaps(scores)
    if results.get("subset"):
        narrate("these are figures of a subset and not comparable with the paper's")
    if results.get("outcome") == "finished":
        narrate(f"the report is {run.path / 'report.html'}")
    emit(str(run.path))


def report(
    runs: Annotated[
        list[str], typer.Argument(help="Finished evaluations; the first is compared with.")
    ],
    out: Annotated[Path, typer.Option("--out", help="Folder for report.html and report.md.")],
) -> None:
    """Show evaluations of the same rows side by side: HTML and Markdown.

    Example: ecellm report base-run adapter-run --out report
    """
    from ecellm_mlx import jobs
    from ecellm_mlx.evaluation import report as report_module

    for path in report_module.write(out, [jobs.find(run).path for run in runs]):
        emit(str(path))


def score(
    predictions: Annotated[
        Path, typer.Option(help="JSONL of {id, prediction}, or a finished evaluation.")
    ],
    labels: Labels,
    details: Annotated[
        bool,
        typer.Option("--details", help="Add intervals, confusions, attributes and worst rows."),
    ] = False,
    bertscore: BertScore = None,
    bertscore_layer: BertScoreLayer = None,
    json: options.Json = False,
) -> None:
    """Metrics of existing predictions, in any order.

    Example: ecellm score --predictions predictions.jsonl --labels test.jsonl --json
    """
    from ecellm_mlx.data import rows as rows_module
    from ecellm_mlx.evaluation import details as details_module
    from ecellm_mlx.evaluation import predictions as predictions_module
    from ecellm_mlx.evaluation.metrics import score_by_task

    rows = rows_module.load(labels)
    given = predictions_module.read(predictions)
    predictions_module.require_all(given, rows)
    scorer = _text_scorer(bertscore, bertscore_layer)
    scores = score_by_task(rows, given.answers, text_scorer=scorer)
    if details:
        more = details_module.details(
            rows, given.answers, probabilities=given.probabilities, text_scorer=scorer
        )
        for task, by_setting in more.items():
            for setting, entry in by_setting.items():
                scores[task][setting] |= entry
    if json:
        emit_json(scores)
        return
    _show_scores("", scores)
    _narrate_gaps(scores)


def compare(
    first: Annotated[Path, typer.Argument(metavar="A", help="Predictions, or a run.")],
    second: Annotated[Path, typer.Argument(metavar="B", help="Others of the same rows.")],
    labels: Labels,
    bertscore: BertScore = None,
    bertscore_layer: BertScoreLayer = None,
    json: options.Json = False,
) -> None:
    """Whether two sets of predictions of the same rows really differ.

    Example: ecellm compare base-run adapter-run --labels test.jsonl
    """
    from ecellm_mlx.data import rows as rows_module
    from ecellm_mlx.evaluation.compare import compare_by_task
    from ecellm_mlx.evaluation.predictions import read_pair

    rows = rows_module.load(labels)
    a, b = read_pair(first, second, rows)
    comparison = compare_by_task(
        rows, a.answers, b.answers, text_scorer=_text_scorer(bertscore, bertscore_layer)
    )
    if json:
        emit_json(comparison)
    else:
        _show_comparison(comparison)


def _text_scorer(folder: Path | None, layer: int | None) -> TextScorer | None:
    if folder is None:
        return None
    from ecellm_mlx.evaluation.bertscore import BertScorer

    return BertScorer(folder, layer=layer)


def _show_comparison(comparison: dict[str, dict[str, dict[str, Any]]]) -> None:
    from ecellm_mlx.tasks.registry import TASKS

    table = []
    for task, by_setting in comparison.items():
        for setting, result in by_setting.items():
            for mode in ("official", "strict"):
                values = result[mode]
                cells = (
                    [
                        number(values["a"]),
                        number(values["b"]),
                        f"{values['difference']:+.3f}",
                        f"[{values['low']:+.3f}, {values['high']:+.3f}]",
                        f"{values['p']:.3f}",
                    ]
                    if values
                    else ["not computed", "", "", "", ""]
                )
                exact = result.get("mcnemar") if mode == "strict" else None
                table.append(
                    [
                        TASKS[task].short,
                        setting,
                        str(result["n"]),
                        f"{TASKS[task].metric_label}, {mode}",
                        *cells,
                        f"{exact['p']:.3f}" if exact else "",
                    ]
                )
    columns = ["task", "setting", "n", "metric", "A", "B", "B − A", "95%", "p", "McNemar p"]
    emit_table("", columns, table)


def _narrate_gaps(scores: dict[str, dict[str, Any]]) -> None:
    for task, by_setting in scores.items():
        for setting, result in by_setting.items():
            if "not_computed" in result:
                narrate(f"{task} {setting}: {result['not_computed']}")


def _show_scores(title: str, scores: dict[str, dict[str, Any]]) -> None:
    from ecellm_mlx.tasks.registry import TASKS

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
