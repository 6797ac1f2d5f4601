"""``ecellm study``: the paper's studies, each as one command with one report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ecellm_mlx.cli import options
from ecellm_mlx.cli.output import emit, emit_json, narrate


def register(app: typer.Typer) -> None:
    """Add the verb to the root command."""
    app.command()(study)


def study(
    kind: Annotated[str, typer.Argument(help="scaling, diversity, holdout or generalist.")],
    model: options.Model,
    data: Annotated[
        Path, typer.Option("--data", "-d", help="Folder with train, val and test rows.")
    ],
    out: Annotated[Path, typer.Option("--out", help="Folder of the study; goes on in it.")],
    recipe: Annotated[str | None, typer.Option(help="Recipe name or TOML file.")] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="A setting as key=value; repeatable.")
    ] = None,
    size: Annotated[
        list[int] | None,
        typer.Option(help="scaling: training rows; repeatable (default: 1000 to 50000)."),
    ] = None,
    holdout_category: Annotated[
        list[str] | None,
        typer.Option(help="holdout: only this category; repeatable (default: each)."),
    ] = None,
    by: Annotated[
        str, typer.Option(help="holdout: the field that is a row's category.")
    ] = "category",
    limit: Annotated[
        int | None, typer.Option(min=1, help="Test rows at most, by stratified sample.")
    ] = None,
    decoding: Annotated[str, typer.Option(help="valid or paper.")] = "valid",
    batch_size: options.BatchSize = 16,
    json: options.Json = False,
) -> None:
    """Repeat a study of the paper; the same command goes on where it was stopped.

    Example: ecellm study scaling --model smollm2-135m --data rows --recipe smollm2 --out s
    """
    from ecellm_mlx.cli.follow import follow
    from ecellm_mlx.studies import study as studies
    from ecellm_mlx.studies.arms import SIZES, Options

    results = studies.run(
        studies.Study(
            kind=kind,
            model=model,
            data=data,
            recipe=recipe,
            overrides=tuple(settings or ()),
            options=Options(tuple(size or SIZES), tuple(holdout_category or ()), by),
            limit=limit,
            decoding=decoding,
            batch_size=batch_size,
        ),
        out,
        follow=follow,
        say=narrate,
    )
    if json:
        emit_json(results)
    else:
        emit(str(out / "report.html"))
