"""``ecellm catalog``: run a task over a product table, look before, match two tables."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from ecellm_mlx.catalog.settings import Asked, CatalogSettings, Reading
from ecellm_mlx.cli import catalog_match, options
from ecellm_mlx.cli import catalog_options as own
from ecellm_mlx.cli.catalog_finish import finish
from ecellm_mlx.cli.output import emit, emit_json, emit_table, narrate

app = typer.Typer(
    help="Product tables: show, preview, run, match, pairs, correct.", no_args_is_help=True
)

app.command()(catalog_match.match)
app.command()(catalog_match.pairs)


@app.callback()
def catalog() -> None:
    """Offline processing of product tables."""


@app.command()
@options.grouped
def run(
    table: own.TableFile,
    *,
    settings: CatalogSettings,
    asked: Asked,
    save_mapping: Annotated[
        Path | None, typer.Option(help="Keep what is asked in a file for --mapping.")
    ] = None,
    reading: Reading,
    json: options.Json = False,
) -> None:
    """Answer a task for every product and write the table with the answers appended.

    Example: ecellm catalog run shop.csv --task AVE --attributes Brand,Color
    --model smollm2-135m --out shop.out.csv
    """
    from ecellm_mlx.catalog import saved
    from ecellm_mlx.catalog.job import create

    content = reading.open(table)
    question, said = own.question_of(content, asked)
    job = create(table, question, settings, reading=reading)
    own.narrate_facts(content)
    if save_mapping:
        saved.save(save_mapping, said)
        narrate(f"saved the question to {save_mapping}")
    finish(job, settings.out, json)


@app.command()
@options.grouped
def preview(
    table: own.TableFile,
    *,
    model: options.Model,
    adapter: options.Adapter = None,
    asked: Asked,
    limit: Annotated[int, typer.Option(min=1, help="How many rows.")] = 5,
    answers: Annotated[
        bool, typer.Option("--answers/--no-answers", help="Answer them with the model.")
    ] = True,
    reading: Reading,
    json: options.Json = False,
) -> None:
    """Show what the model will read, and what it answers for the first rows.

    Example: ecellm catalog preview shop.csv --task SA --map review=text --model smollm2-135m
    """
    from ecellm_mlx.catalog import preview as previews

    content = reading.open(table)
    question, _ = own.question_of(content, asked)
    rows = previews.prompts(content, question, model=model, limit=limit)
    own.narrate_facts(content)
    if answers:
        rows = previews.answers(rows, model=model, adapter=adapter)
    if json:
        emit_json({"table": content.facts(), "rows": [p.to_json() for p in rows]})
        return
    narrate("— the first prompt")
    emit(next((p.prompt for p in rows if p.prompt), ""))
    lines = [
        [
            str(p.line),
            p.answer or p.error or "—",
            "—" if p.confidence is None else f"{p.confidence:.2f}",
        ]
        for p in rows
    ]
    emit_table("", [content.unit, "answer", "confidence"], lines)


@app.command()
def correct(
    run: options.Run,
    rows: Annotated[
        Path | None, typer.Option(help="Write the decided rows as training rows (.jsonl).")
    ] = None,
    json: options.Json = False,
) -> None:
    """Take over what a person wrote into the column correction of a run's review file.

    Example: ecellm catalog correct RUN --rows my-rows/train.jsonl
    """
    from ecellm_mlx import jobs
    from ecellm_mlx.catalog import review

    done = review.apply(jobs.find(run), rows)
    narrate(f"{done.decided} rows decided, {done.corrected} of them corrected")
    if json:
        emit_json(
            {
                "decided": done.decided,
                "corrected": done.corrected,
                "out": str(done.out),
                "rows": str(done.rows) if done.rows else None,
            }
        )
        return
    emit(str(done.out))
    if done.rows:
        emit(str(done.rows))


@app.command()
@options.grouped
def show(
    table: own.TableFile,
    *,
    task: own.TaskName = None,
    reading: Reading,
    json: options.Json = False,
) -> None:
    """Say how a table is written down and which columns look like a task's fields.

    Example: ecellm catalog show shop.csv --task AVE
    """
    from ecellm_mlx.tables.guess import guess
    from ecellm_mlx.tasks.fields import TARGETS
    from ecellm_mlx.tasks.registry import find

    content = reading.open(table)
    guessed = guess(content, find(task) if task else None)
    if json:
        emit_json({"table": content.facts(), "columns": content.names, **asdict(guessed)})
        return
    emit_table("", ["", ""], [[k, v] for k, v in content.facts().items()])
    emit(", ".join(content.names))
    own.show_guess(guessed)
    if TARGETS in guessed.missing:
        narrate("name the attributes to extract with --attributes")
    if missing := [field for field in guessed.missing if field != TARGETS]:
        narrate(f"no column looks like {', '.join(missing)}")
