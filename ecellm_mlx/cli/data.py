"""``ecellm data``: check, show."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ecellm_mlx.cli import options
from ecellm_mlx.cli.output import emit, emit_json, emit_table, narrate

app = typer.Typer(help="Rows: check, show.", no_args_is_help=True)

Rows = Annotated[Path, typer.Argument(help="A .jsonl or .json file of rows.")]


@app.command()
def check(path: Rows, json: options.Json = False) -> None:
    """Validate every row; says what a file holds and what is wrong with it.

    Example: ecellm data check train.jsonl
    """
    from ecellm_mlx.data import rows

    report = rows.check(path)
    if json:
        emit_json(report.to_json())
    else:
        emit_table(
            f"{path}: {report.rows} rows",
            ["task", "setting", "split", "rows"],
            [
                [task, setting, split, str(n)]
                for task, by_setting in report.counts.items()
                for setting, by_split in by_setting.items()
                for split, n in by_split.items()
            ],
        )
        for finding in report.warnings[:20]:
            narrate(f"warning: {finding.error(path, 0)}")
        for finding in report.errors[:20]:
            narrate(f"error: {finding.error(path, 0)}")
        if len(report.errors) > 20:
            narrate(f"and {len(report.errors) - 20} more errors")
    if not report.ok:
        raise typer.Exit(1)


@app.command()
def show(
    path: Rows,
    task: Annotated[str | None, typer.Option(help="Only rows of this task.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="How many rows.")] = 1,
    frame: Annotated[str, typer.Option(help="Prompt frame: alpaca or mistral.")] = "alpaca",
) -> None:
    """Print rows as a model sees them: the whole prompt, then the answer.

    Example: ecellm data show train.jsonl --task Sentiment_Analysis
    """
    from ecellm_mlx.data import prompts, rows
    from ecellm_mlx.errors import UsageError

    if frame not in list(prompts.Frame):
        raise UsageError(f"--frame {frame} is unknown", expected=" or ".join(prompts.Frame))
    for row in rows.load(path, tasks=[task] if task else None)[:limit]:
        narrate(f"— {row.id}")
        emit(prompts.prompt(row, prompts.Frame(frame)) + row.output)


@app.command()
def split(
    path: Annotated[Path, typer.Argument(help="A dataset folder, or one file of rows.")],
    holdout_category: Annotated[
        str, typer.Option("--holdout-category", help="The category to leave out of training.")
    ],
    out: Annotated[Path, typer.Option("--out", help="Folder to write.")],
    by: Annotated[
        str, typer.Option(help="The field of rows or of their inputs that is their category.")
    ] = "category",
    json: options.Json = False,
) -> None:
    """Leave a category out of training and test on it, as out-of-domain rows.

    Example: ecellm data split rows --holdout-category Shoes --out rows-without-shoes
    """
    from dataclasses import asdict

    from ecellm_mlx.data import holdout

    done = holdout.split(path, holdout_category, out, by=by)
    if json:
        emit_json({**asdict(done), "folder": str(done.folder)})
        return
    emit_table(
        f"{by} {holdout_category} is left out of training",
        ["file", "rows"],
        [
            ["train.jsonl", str(done.train)],
            ["val.jsonl", str(done.val)],
            ["test.jsonl, other rows", str(done.test_kept)],
            ["test.jsonl, held out (OOD)", str(done.test_held_out)],
            ["left_out.jsonl, not used", str(done.left_out)],
        ],
    )
