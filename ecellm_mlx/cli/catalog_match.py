"""``ecellm catalog match`` and ``pairs``: the same products in two catalogs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from ecellm_mlx.cli import catalog_options as own
from ecellm_mlx.cli import options
from ecellm_mlx.cli.output import emit, emit_json, narrate

LeftMap = Annotated[
    list[str] | None,
    typer.Option(help="title=column, also description, manufacturer, price; repeatable."),
]
RightMap = Annotated[list[str] | None, typer.Option(help="The same for RIGHT.")]
Top = Annotated[int, typer.Option(min=1, help="Candidates for each left product.")]


@options.grouped
def match(
    left: own.TableFile,
    right: own.TableFile,
    *,
    model: Annotated[
        str | None,
        typer.Option(
            "--model", "-m", help="Registry name or folder; words and prices decide without."
        ),
    ] = None,
    adapter: options.Adapter = None,
    out: Annotated[Path, typer.Option("--out", help="The table of matches to write.")],
    left_map: LeftMap = None,
    right_map: RightMap = None,
    top: Top = 5,
    truth: Annotated[
        Path | None,
        typer.Option(
            help="Known matches (left id, right id) to weigh words, prices and model by."
        ),
    ] = None,
    threshold: Annotated[
        float | None,
        typer.Option(help="Least probability of a match (0.5, or the best for --truth)."),
    ] = None,
    one_to_one: Annotated[
        bool, typer.Option("--one-to-one", help="Use each product once at most.")
    ] = False,
    review_band: Annotated[
        str | None, typer.Option(help="LOW,HIGH: pairs between go to a review file.")
    ] = None,
    instruction: own.Instruction = None,
    work: own.Work,
    json: options.Json = False,
) -> None:
    """Find the products of LEFT in RIGHT: likely pairs first, then the model judges them.

    Example: ecellm catalog match mine.csv theirs.csv --model smollm2-135m --adapter RUN
    --truth known.csv --one-to-one --out matches.csv
    """
    from ecellm_mlx.cli.catalog import report
    from ecellm_mlx.matching.job import launch

    found = launch(
        left,
        right,
        model=model,
        adapter=adapter,
        out=out,
        left_mapping=left_map or (),
        right_mapping=right_map or (),
        top=top,
        truth=truth,
        threshold=threshold,
        one_to_one=one_to_one,
        review_band=band(review_band) if review_band else None,
        instruction=instruction,
        **asdict(work),
    )
    report(found, out, json)


def pairs(
    left: own.TableFile,
    right: own.TableFile,
    truth: Annotated[Path, typer.Option(help="Known matches: a table of left and right ids.")],
    out: Annotated[Path, typer.Option("--out", help="Folder of training rows to create.")],
    left_map: LeftMap = None,
    right_map: RightMap = None,
    top: Top = 5,
    negatives: Annotated[
        int, typer.Option(min=1, help="Near misses for each known left product.")
    ] = 2,
    hold: Annotated[
        float, typer.Option(help="Share of known products kept aside for match --truth.")
    ] = 0.3,
    val: Annotated[float, typer.Option(help="Share of the others for validation.")] = 0.1,
    instruction: own.Instruction = None,
    seed: Annotated[int, typer.Option(help="Of the division.")] = 42,
    json: options.Json = False,
) -> None:
    """Turn known matches into training rows: each match, and the pairs most like one.

    Example: ecellm catalog pairs mine.csv theirs.csv --truth known.csv --out my-pairs
    """
    from ecellm_mlx.matching import pair_rows
    from ecellm_mlx.matching import pairs as tables
    from ecellm_mlx.matching.job import question_of_pairs
    from ecellm_mlx.tables import open_table

    def side(path: Path, mapping: list[str] | None, option: str) -> tables.Side:
        table = open_table(path)
        return tables.read(table, tables.parts_of(table, mapping or (), option))

    done = pair_rows.write(
        side(left, left_map, "--left-map"),
        side(right, right_map, "--right-map"),
        truth,
        question_of_pairs(instruction),
        out,
        top=top,
        negatives=negatives,
        hold=hold,
        val=val,
        seed=seed,
    )
    if done.lost:
        narrate(f"warning: {done.lost} known matches name products that are not there")
    narrate(
        f"{done.train} training rows, {done.val} validation rows, {done.held} known matches "
        f"kept aside in {pair_rows.HELD}"
    )
    if json:
        emit_json({**asdict(done), "folder": str(done.folder)})
        return
    emit(str(done.folder))


def sentences(results: dict[str, Any]) -> Sequence[str]:
    """What the known matches said, for a person."""
    if not (fitted := results.get("truth")):
        return ()
    lines = [
        f"on {fitted['matches']} known matches of {fitted['products']} products "
        "(cross-validated):"
    ]
    for name, quality in fitted["quality"].items():
        mark = "; decides" if name == fitted["used"] else ""
        lines.append(
            f"  {name}: F1 {quality['f1']:.3f}, precision {quality['precision']:.3f}, "
            f"recall {quality['recall']:.3f}, from {quality['threshold']:.2f} on{mark}"
        )
    if not fitted["unmatched"]:
        lines.append(
            "  every known product has a match; if others have none, expect lower precision "
            "(list some with an empty right id)"
        )
    return lines


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
