"""``ecellm catalog``: run a task over a product table, look before, match two tables."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from ecellm_mlx.cli import catalog_match, options
from ecellm_mlx.cli import catalog_options as own
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
    model: options.Model,
    adapter: options.Adapter = None,
    out: Annotated[Path, typer.Option("--out", help="The table to write.")],
    asked: own.Asked,
    values: options.Values = "source",
    review_below: Annotated[
        float | None, typer.Option(help="Rows below this confidence: to a review file.")
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Refuse unreadable rows.")] = False,
    save_mapping: Annotated[
        Path | None, typer.Option(help="Keep what is asked in a file for --mapping.")
    ] = None,
    work: own.Work,
    reading: own.Reading,
    json: options.Json = False,
) -> None:
    """Answer a task for every product and write the table with the answers appended.

    Example: ecellm catalog run shop.csv --task AVE --attributes Brand,Color
    --model smollm2-135m --out shop.out.csv
    """
    from ecellm_mlx.catalog.job import launch

    content = reading.open(table)
    question = own.question_of(content, asked)
    found = launch(
        table,
        model=model,
        adapter=adapter,
        out=out,
        values=values,
        strict=strict,
        review_below=review_below,
        **asdict(reading),
        **asdict(work),
        **question,
    )
    own.narrate_facts(content)
    if save_mapping:
        own.save(save_mapping, question)
    report(found, out, json)


@app.command()
@options.grouped
def preview(
    table: own.TableFile,
    *,
    model: options.Model,
    adapter: options.Adapter = None,
    asked: own.Asked,
    limit: Annotated[int, typer.Option(min=1, help="How many rows.")] = 5,
    answers: Annotated[
        bool, typer.Option("--answers/--no-answers", help="Answer them with the model.")
    ] = True,
    reading: own.Reading,
    json: options.Json = False,
) -> None:
    """Show what the model will read, and what it answers for the first rows.

    Example: ecellm catalog preview shop.csv --task SA --map review=text --model smollm2-135m
    """
    from ecellm_mlx.catalog import preview as previews
    from ecellm_mlx.data.question import build

    content = reading.open(table)
    question = build(content.names, **own.question_of(content, asked))
    found = previews.prompts(content, question, model=model, limit=limit)
    own.narrate_facts(content)
    if answers:
        found = previews.answers(found, model=model, adapter=adapter)
    if json:
        emit_json({"table": content.facts(), "rows": [p.to_json() for p in found]})
        return
    shown = next((p.prompt for p in found if p.prompt), "")
    narrate("— the first prompt")
    emit(shown)
    rows = [
        [
            str(p.line),
            p.answer or p.error or "—",
            "—" if p.confidence is None else f"{p.confidence:.2f}",
        ]
        for p in found
    ]
    emit_table("", [content.unit, "answer", "confidence"], rows)


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
    reading: own.Reading,
    json: options.Json = False,
) -> None:
    """Say how a table is written down and which columns look like a task's fields.

    Example: ecellm catalog show shop.csv --task AVE
    """
    from ecellm_mlx.tables.guess import guess
    from ecellm_mlx.tasks.fields import TARGETS
    from ecellm_mlx.tasks.registry import find

    content = reading.open(table)
    found = guess(content, find(task) if task else None)
    if json:
        emit_json({"table": content.facts(), "columns": content.names, **asdict(found)})
        return
    emit_table("", ["", ""], [[k, v] for k, v in content.facts().items()])
    emit(", ".join(content.names))
    own.show_guess(found)
    if TARGETS in found.missing:
        narrate("name the attributes to extract with --attributes")
    if missing := [field for field in found.missing if field != TARGETS]:
        narrate(f"no column looks like {', '.join(missing)}")


def report(run_: Any, out: Path, json: bool) -> None:
    """Start a job, watch it to its end, and say what came of it."""
    from ecellm_mlx import jobs
    from ecellm_mlx.cli.follow import follow
    from ecellm_mlx.distributed import shards
    from ecellm_mlx.distributed.launched import launched_rank
    from ecellm_mlx.errors import JobError

    rank = launched_rank()
    if rank is None:
        jobs.start(run_)
        try:
            results = follow(run_)
        except JobError:
            if shards.journal_path(out).exists():
                narrate("what was answered is kept; the same command with --resume goes on")
            raise
    else:
        # Under mlx.launch this process is a rank already.
        if status := jobs.execute(run_):
            raise typer.Exit(status)
        results = follow(run_)
        if rank:
            return
    if json:
        emit_json({"run": str(run_.path), **results})
        return
    if results:
        for line in (_sentence(results), *catalog_match.sentences(results)):
            narrate(line)
    emit(str(out.absolute()))


def _sentence(results: dict[str, Any]) -> str:
    unit = "matches" if "pairs" in results else "rows"
    parts = [f"{results['outcome']}: {results['rows']} {unit}"]
    for key, word in (
        ("pairs", "pairs judged"),
        ("computed", "answers computed"),
        ("errors", "errors"),
        ("rejected", "rows that could not be read"), ("review", "rows to review"),
        ("shortened", "inputs shortened"),
    ):  # fmt: skip
        if results.get(key):
            parts.append(f"{results[key]} {word}")
    return ", ".join(parts)
