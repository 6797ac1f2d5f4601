"""``ecellm catalog match``: the same products in two catalogs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ecellm_mlx.cli import catalog_options as own
from ecellm_mlx.cli import options


def match(
    left: own.TableFile,
    right: own.TableFile,
    model: options.Model,
    out: Annotated[Path, typer.Option("--out", help="The table of matches to write.")],
    adapter: options.Adapter = None,
    left_map: Annotated[
        list[str] | None,
        typer.Option(help="title=column, also description, manufacturer, price; repeatable."),
    ] = None,
    right_map: Annotated[list[str] | None, typer.Option(help="The same for RIGHT.")] = None,
    top: Annotated[int, typer.Option(min=1, help="Candidates for each left product.")] = 5,
    threshold: Annotated[float, typer.Option(help="Least probability of a match.")] = 0.5,
    one_to_one: Annotated[
        bool, typer.Option("--one-to-one", help="Use each product once at most.")
    ] = False,
    review_band: Annotated[
        str | None, typer.Option(help="LOW,HIGH: pairs between go to a review file.")
    ] = None,
    instruction: own.Instruction = None,
    batch_size: options.BatchSize = 16,
    resume: own.Resume = False,
    new: own.New = False,
    pause_on_battery: own.PauseOnBattery = None,
    pause_on_memory: own.PauseOnMemory = None,
    json: options.Json = False,
) -> None:
    """Find the products of LEFT in RIGHT: likely pairs first, then the model judges them.

    Example: ecellm catalog match mine.csv theirs.csv --model smollm2-135m --adapter RUN
    --one-to-one --review-band 0.3,0.7 --out matches.csv
    """
    from ecellm_mlx.catalog.matching import launch
    from ecellm_mlx.cli.catalog import report

    found = launch(
        left,
        right,
        model=model,
        adapter=adapter,
        out=out,
        left_mapping=left_map or (),
        right_mapping=right_map or (),
        top=top,
        threshold=threshold,
        one_to_one=one_to_one,
        review_band=band(review_band) if review_band else None,
        instruction=instruction,
        batch_size=batch_size,
        resume=resume,
        new=new,
        pause_on_battery=pause_on_battery,
        pause_on_memory=pause_on_memory,
    )
    report(found, out, json)


def band(text: str) -> tuple[float, float]:
    """``LOW,HIGH`` as numbers.

    Raises:
        UsageError: it is something else.
    """
    from ecellm_mlx.errors import UsageError

    try:
        low, high = map(float, text.split(","))
    except ValueError:
        raise UsageError(
            f"--review-band {text} is no band", expected="two numbers such as 0.3,0.7"
        ) from None
    return low, high
