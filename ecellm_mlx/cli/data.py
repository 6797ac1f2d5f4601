"""``ecellm data``: pull, import, check, show, split."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ecellm_mlx.cli import options
from ecellm_mlx.cli.output import emit, emit_json, emit_table, narrate

app = typer.Typer(help="Rows: pull, import, check, show, split.", no_args_is_help=True)

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


@app.command()
def pull(
    repo: Annotated[
        str, typer.Argument(help="A dataset of the hub in the format of ECInstruct.")
    ] = "NingLab/ECInstruct",
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit.")] = None,
    labels: Annotated[
        Path | None,
        typer.Option(help="The published label.json: judgments that ranking rows lack."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what it would take.")
    ] = False,
    json: options.Json = False,
) -> None:
    """Fetch ECInstruct and write it by setting; an interrupted pull resumes.

    Example: ecellm data pull --labels label.json
    """
    from ecellm_mlx.cli.progress import byte_bar
    from ecellm_mlx.hub import download, ecinstruct

    plan = download.plan(ecinstruct.name(repo, revision))
    narrate(
        f"{repo} at {plan.commit[:12]}: {len(plan.files)} files, {plan.bytes_total / 1e6:.1f} "
        f"MB, of which {plan.bytes_present / 1e6:.1f} MB are here"
    )
    if dry_run:
        return
    with byte_bar("pull") as update:
        done = ecinstruct.pull(
            repo,
            revision=revision,
            labels=labels,
            progress=lambda p: update(p.done_bytes, p.total_bytes),
            say=narrate,
        )
    if not done.judged:
        narrate(
            "ranking rows have no judgments, so that NDCG cannot be computed: give the "
            "published label.json with --labels"
        )
    if json:
        emit_json({"path": str(done.path), "commit": done.commit, "rows": done.rows})
        return
    emit_table(
        f"{repo} at {done.commit[:12]}",
        ["setting", "train", "val", "test"],
        [
            [setting, *(str(counts.get(split, 0)) for split in ("train", "val", "test"))]
            for setting, counts in done.rows.items()
        ],
    )
    emit(str(done.path))


@app.command("import")
def import_table(
    table: Annotated[Path, typer.Argument(help="CSV, TSV, JSON Lines, Parquet or XLSX.")],
    task: Annotated[str, typer.Option("--task", "-t", help="What the rows teach.")],
    mapping: Annotated[
        list[str],
        typer.Option("--map", help="field=column, output=column and others; repeatable."),
    ],
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder to write; in the workspace by default.")
    ] = None,
    instruction: Annotated[str | None, typer.Option(help="Your own instruction.")] = None,
    label: Annotated[
        list[str] | None, typer.Option(help="An option of a choice; repeatable.")
    ] = None,
    val: Annotated[float, typer.Option(min=0, max=1, help="Share of validation rows.")] = 0.1,
    test: Annotated[float, typer.Option(min=0, max=1, help="Share of test rows.")] = 0.1,
    setting: Annotated[str, typer.Option(help="Name of the rows' setting.")] = "own",
    encoding: Annotated[str | None, typer.Option(help="Of a CSV or TSV file.")] = None,
    delimiter: Annotated[str | None, typer.Option(help="Of a CSV or TSV file.")] = None,
    sheet: Annotated[str | None, typer.Option(help="Of a workbook.")] = None,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Leave out rows that cannot be used.")
    ] = False,
    json: options.Json = False,
) -> None:
    """Turn an own table with answers into training, validation and test rows.

    Example: ecellm data import reviews.csv --task SA --map review=text --map output=mood
    """
    from ecellm_mlx import workspace
    from ecellm_mlx.data import importing

    wanted = importing.Import(
        task=task,
        mapping=mapping,
        instruction=instruction,
        labels=label or (),
        val=val,
        test=test,
        setting=setting,
        encoding=encoding,
        delimiter=delimiter,
        sheet=sheet,
    )
    target = out or workspace.current().datasets / table.stem
    done = importing.run(table, wanted, target, skip=skip_bad)
    for finding in done.left_out[:20]:
        narrate(f"left out: {finding.error(table)}")
    if len(done.left_out) > 20:
        narrate(f"and {len(done.left_out) - 20} more were left out")
    if json:
        emit_json({"path": str(done.folder), "rows": done.rows, "left_out": len(done.left_out)})
        return
    narrate(", ".join(f"{count} {name} rows" for name, count in done.rows.items()))
    emit(str(done.folder))
