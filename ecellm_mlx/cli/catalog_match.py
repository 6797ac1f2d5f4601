"""``ecellm catalog match`` and ``pairs``: the same products in two catalogs."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from ecellm_mlx.cli import catalog_options as own
from ecellm_mlx.cli import options
from ecellm_mlx.cli.catalog_finish import finish
from ecellm_mlx.cli.output import emit, emit_json, narrate
from ecellm_mlx.matching.settings import MatchSettings, PairSettings


@options.grouped
def match(
    left: own.TableFile,
    right: own.TableFile,
    *,
    settings: MatchSettings,
    json: options.Json = False,
) -> None:
    """Find the products of LEFT in RIGHT: likely pairs first, then the model judges them.

    Example: ecellm catalog match mine.csv theirs.csv --model smollm2-135m --adapter RUN
    --truth known.csv --one-to-one --out matches.csv
    """
    from ecellm_mlx.matching.job import create

    finish(create(left, right, settings), settings.out, json)


@options.grouped
def pairs(
    left: own.TableFile,
    right: own.TableFile,
    *,
    truth: Annotated[Path, typer.Option(help="Known matches: a table of left and right ids.")],
    out: Annotated[Path, typer.Option("--out", help="Folder of training rows to create.")],
    settings: PairSettings,
    json: options.Json = False,
) -> None:
    """Turn known matches into training rows: each match, and the pairs most like one.

    Example: ecellm catalog pairs mine.csv theirs.csv --truth known.csv --out my-pairs
    """
    from ecellm_mlx.matching import pair_rows
    from ecellm_mlx.matching import pairs as tables
    from ecellm_mlx.matching.job import question_of_pairs
    from ecellm_mlx.tables import open_table

    def side(path: Path, mapping: tuple[str, ...], option: str) -> tables.Side:
        table = open_table(path)
        return tables.read(table, tables.parts_of(table, mapping, option))

    done = pair_rows.write(
        side(left, settings.left_map, "--left-map"),
        side(right, settings.right_map, "--right-map"),
        truth,
        question_of_pairs(settings.instruction),
        out,
        settings,
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
