"""``ecellm plan``: memory and time of a training run, before anything runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ecellm_mlx.cli import options
from ecellm_mlx.cli.output import emit, emit_json, emit_table, narrate


def register(app: typer.Typer) -> None:
    """Add the verb to the root command."""
    app.command()(plan)


def plan(
    model: options.Model,
    recipe: Annotated[str | None, typer.Option(help="Recipe name or TOML file.")] = None,
    data: Annotated[
        Path | None, typer.Option("--data", "-d", help="Folder with train.jsonl.")
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="A setting as key=value; repeatable.")
    ] = None,
    tokens_per_second: Annotated[
        float | None, typer.Option(min=0.001, help="Speed to assume for the time.")
    ] = None,
    json: options.Json = False,
) -> None:
    """Predict peak memory, time and fit of a training run; the model need not be here.

    Example: ecellm plan --model ecellm-s --recipe ecellm-s --data my-rows
    """
    from ecellm_mlx.training import plan as plans
    from ecellm_mlx.training import recipe as recipes

    planned = plans.plan_training(
        model, recipes.read(recipe, settings or ()), data, tokens_per_second=tokens_per_second
    )
    if json:
        emit_json(planned.to_json())
        return
    p = planned.prediction
    parts = ("weights", "adapter", "activations", "logits", "transient", "peak")
    sizes = [[name, f"{getattr(p, name) / 2**30:.2f} GB"] for name in parts]
    emit_table(f"{model}, predicted on {planned.device}", ["memory", "size"], sizes)
    emit_table(
        "the same run on a Mac",
        [f"{size} GB" for size in planned.macs],
        [["fits" if fits else "too large" for fits in planned.macs.values()]],
    )
    narrate(f"{planned.rows} rows, {planned.lengths_from}")
    narrate(
        f"speed: {planned.tokens_per_second:.0f} tokens/s ({planned.speed_from}); "
        f"{planned.tokens:,} tokens"
    )
    emit(f"time: about {planned.seconds / 3600:.1f} h")
    peak, limit = p.peak_gb, planned.limit_gb
    emit(f"fits: {'yes' if planned.fits else 'no'} ({peak:.1f} of {limit:.1f} GB)")
    for suggestion in planned.suggestions:
        emit(f"try: {suggestion}")
