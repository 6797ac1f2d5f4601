"""``ecellm catalog``: run a task over a product table."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ecellm_mlx.cli import options
from ecellm_mlx.cli.output import emit, emit_json, narrate

app = typer.Typer(help="Product tables: run.", no_args_is_help=True)


@app.callback()
def catalog() -> None:
    """Offline processing of product tables."""


@app.command()
def run(
    table: Annotated[Path, typer.Argument(help="A CSV or TSV file with a header.")],
    task: Annotated[str, typer.Option("--task", "-t", help="What to add to each product.")],
    mapping: Annotated[
        list[str], typer.Option("--map", help="field=column, or field=:text; repeatable.")
    ],
    model: options.Model,
    out: Annotated[Path, typer.Option("--out", help="The table to write.")],
    adapter: options.Adapter = None,
    instruction: Annotated[str | None, typer.Option(help="Your own instruction.")] = None,
    batch_size: options.BatchSize = 16,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue where an earlier run was stopped.")
    ] = False,
    json: options.Json = False,
) -> None:
    """Answer a task for every product and write the table with the answers appended.

    Example: ecellm catalog run shop.csv --task AVE --map "product title=name"
    --map "target attributes=:Brand and Color" --model smollm2-135m --out shop.out.csv
    """
    from ecellm_mlx import jobs
    from ecellm_mlx.catalog.job import launch
    from ecellm_mlx.cli.follow import follow

    found = launch(
        table,
        task=task,
        mapping=mapping,
        model=model,
        adapter=adapter,
        out=out,
        instruction=instruction,
        batch_size=batch_size,
        resume=resume,
    )
    jobs.start(found)
    results = follow(found)
    if json:
        emit_json({"run": str(found.path), **results})
        return
    if results:
        narrate(f"{results['outcome']}: {results['rows']} products")
    emit(str(out.absolute()))
