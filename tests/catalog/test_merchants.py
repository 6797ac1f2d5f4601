"""Habits of shops' tables, from the file to the answered copy."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest

from ecellm_mlx.catalog.canonical import canonical
from ecellm_mlx.errors import UsageError

from .conftest import AVE, KIND, create, run_here

CASES = Path(__file__).parents[1] / "tables" / "cases"


def records(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8"), newline="")))


def test_blank_rows_are_counted_and_copied(tmp_path: Path, tiny: Path) -> None:
    out = tmp_path / "out.csv"
    table = CASES / "07-comma-only-rows.csv"
    run = create(table, out=out, model=str(tiny), **{**KIND, "mapping": ["title=name"]})
    outcome, results = run_here(run)
    assert outcome == "finished"
    assert [results[name] for name in ("rows", "blank", "errors", "rejected")] == [4, 2, 0, 0]
    lines = out.read_text(encoding="utf-8").splitlines()
    assert lines[2] == lines[4] == ",,,,,"
    assert all(records(out)[place]["ecellm_kind"] for place in (0, 2))


def test_values_get_one_spelling(tmp_path: Path, tiny: Path) -> None:
    out = tmp_path / "out.csv"
    table = CASES / "13-units.csv"
    settings = {**AVE, "mapping": ["product title=title"], "attributes": ["power", "color"]}
    run = create(table, out=out, model=str(tiny), normalise=True, **settings)
    assert run_here(run)[0] == "finished"
    rows = records(out)
    assert list(rows[0])[-4:] == [
        "ecellm_power", "ecellm_power_normalised", "ecellm_color", "ecellm_color_normalised",
    ]  # fmt: skip
    for row in rows:
        for name in ("power", "color"):
            values = filter(None, row[f"ecellm_{name}"].split("; "))
            spellings = [text for value in values if (text := canonical(name, value))]
            assert row[f"ecellm_{name}_normalised"] == "; ".join(dict.fromkeys(spellings))


def test_no_attributes_no_spelling(tmp_path: Path, tiny: Path) -> None:
    with pytest.raises(UsageError, match="--normalise"):
        create(
            CASES / "09-stars.csv", out=tmp_path / "out.csv", model=str(tiny),
            normalise=True, **{**KIND, "mapping": ["text=review"]},
        )  # fmt: skip
