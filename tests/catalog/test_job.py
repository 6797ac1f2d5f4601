"""What a catalog run promises: same bytes however often it is interrupted, no work twice."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path
from typing import Any

import pytest

from ecellm_mlx import jobs, sample, tables
from ecellm_mlx.catalog import answering, writing
from ecellm_mlx.catalog.answering import CatalogModel
from ecellm_mlx.errors import DataError, JobError, UsageError
from ecellm_mlx.jobs import events
from ecellm_mlx.tables import open_table
from ecellm_mlx.tasks.registry import find

from .conftest import AVE, KIND, create, run_here

NAME = "ecellm_kind"


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several chunks in a few rows."""
    monkeypatch.setattr(answering, "MIN_CHUNK_ROWS", 3)
    monkeypatch.setattr(answering, "BATCHES_PER_CHUNK", 2)


def head(source: Path, out: Path, count: int, *more: list[str]) -> Path:
    """The first rows of a table, and rows of one's own."""
    table = open_table(source)
    with tables.plain.create(out, [tables.Column(name) for name in table.header]) as lines:
        for number, row in enumerate(table.good_rows()):
            if number < count:
                lines.write(row.cells)
        for cells in more:
            lines.write(cells)
    return out


def records(path: Path) -> list[dict[str, str]]:
    text = path.read_text(encoding="utf-8")
    return list(csv.DictReader(io.StringIO(text, newline="")))


def stop_after(monkeypatch: pytest.MonkeyPatch, batches: int) -> None:
    """Ask the job to stop when it has done some batches."""
    left = [batches]

    def poll(*_: object) -> jobs.Control | None:
        left[0] -= 1
        return jobs.Control.STOP if left[0] <= 0 else None

    monkeypatch.setattr(jobs.JobContext, "poll", poll)


def test_a_table_is_written_in_its_own_format_or_in_one_that_can_be_made_new(
    tmp_path: Path, tiny: Path
) -> None:
    feed = tmp_path / "shop.xml"
    feed.write_text("<rss><item><title>Red mug</title></item></rss>", encoding="utf-8")
    asked: dict[str, Any] = {**AVE, "mapping": ["product title=title"], "attributes": ["Color"]}
    run = create(feed, model=str(tiny), out=tmp_path / "out.xml", **asked)
    assert run_here(run)[0] == "finished"
    written = (tmp_path / "out.xml").read_text(encoding="utf-8")
    assert written.startswith("<rss><item><title>Red mug</title><ecellm_")
    assert written.endswith("</ecellm_color></item></rss>")
    with pytest.raises(DataError, match="no table of a known format"):
        create(sample.catalog(), model=str(tiny), out=tmp_path / "new.xml", **AVE)


def test_a_stopped_run_resumes_to_the_same_table(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = open_table(sample.catalog())
    first = next(source.good_rows()).cells
    # Two rows are equal, one has no title at all.
    untitled = ["no title", *[""] * (len(first) - 1)]
    small = head(sample.catalog(), tmp_path / "s.csv", 8, first, untitled)
    options: dict[str, Any] = {**KIND, "model": str(tiny), "batch_size": 2}

    whole = create(small, out=tmp_path / "whole.csv", run=tmp_path / "w", **options)
    outcome, results = run_here(whole)
    assert outcome == "finished"
    assert [results[key] for key in ("rows", "computed", "errors")] == [10, 8, 1]

    for stop in range(1, 4):
        out = tmp_path / f"parts{stop}.csv"
        with monkeypatch.context() as patch:
            stop_after(patch, stop)
            parts = create(small, out=out, run=tmp_path / f"p{stop}", **options)
            assert run_here(parts)[0] == "stopped"
        assert not out.exists()
        with pytest.raises(JobError, match="--resume"):
            create(small, out=out, **options)
        resumed = create(small, out=out, resume=True, **options)
        outcome, results = run_here(resumed)
        assert outcome == "finished"
        assert results["computed"] == 8 - 2 * stop
        assert out.read_bytes() == (tmp_path / "whole.csv").read_bytes()

    written = records(tmp_path / "whole.csv")
    names = open_table(small).names
    assert [[row[name] for name in names] for row in written] == [
        row.cells for row in open_table(small).good_rows()
    ]
    assert written[0][NAME] == written[8][NAME] != ""
    assert "title" in written[9][f"{NAME}_error"]


def test_attributes_come_as_json_and_from_the_text(tiny: Path, tmp_path: Path) -> None:
    table = head(sample.catalog(), tmp_path / "s.csv", 3)
    out = tmp_path / "out.csv"
    run_here(create(table, out=out, model=str(tiny), **AVE))
    name = "ecellm_attribute_value_extraction"
    for row in records(out):
        for item in json.loads(row[name]):
            assert item["attribute"] == "brand"
            # A random model would write anything else.
            assert item["value"] == "None" or item["value"].lower() in row["title"].lower()
        values = [item["value"] for item in json.loads(row[name])]
        assert row["ecellm_brand"] == "; ".join(v for v in values if v != "None")
        assert 0 <= float(row[f"{name}_confidence"]) <= 1
    assert any(row["ecellm_brand"] for row in records(out))
    with pytest.raises(JobError, match=r"\(values differs\)"):
        create(table, out=out, model=str(tiny), resume=True, values="free", **AVE)
    with pytest.raises(UsageError, match="--values x"):
        create(table, out=out, model=str(tiny), values="x", **AVE)


def test_each_attribute_has_a_column_of_its_own() -> None:
    names = [column.name for column in writing.part_columns(
        ["brand", "screen size", "error"], ["ecellm_brand", "brand"]
    )]  # fmt: skip
    assert names == ["ecellm_brand_2", "ecellm_screen_size", "ecellm_error"]
    answer = json.dumps(
        [
            {"attribute": "Brand", "value": "Acme", "source": "title"},
            {"attribute": "color", "value": "red", "source": "title"},
            {"attribute": "color", "value": "blue", "source": "title"},
            {"attribute": "size", "value": "None", "source": "None"},
        ]
    )
    asked = ["brand", "color", "size", "weight"]
    assert find("AVE").kind.part_values(answer, asked) == ["Acme", "red; blue", "", ""]
    # What a person wrote, or what could not be answered, breaks nothing.
    for text in ("", "Acme", "[1]", '[{"attribute": "brand"}]', "null"):
        assert find("AVE").kind.part_values(text, asked) == [""] * 4


def test_only_changed_rows_of_a_new_export_are_computed(tiny: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {**KIND, "model": str(tiny), "batch_size": 2}
    table = head(sample.catalog(), tmp_path / "shop.csv", 5)
    out = tmp_path / "out.csv"
    assert run_here(create(table, out=out, **options))[1]["computed"] == 5
    old = records(out)
    # A new price and description change nothing that is asked; a new title does.
    text = table.read_text(encoding="utf-8")
    title = old[1]["title"]
    table.write_text(text.replace(title, "A new lamp").replace("9.99", "8.88"), "utf-8")
    head(table, tmp_path / "shop2.csv", 5, ["x", "One more product", *[""] * 8])
    (tmp_path / "shop2.csv").replace(table)
    outcome, results = run_here(create(table, out=out, resume=True, **options))
    assert (outcome, results["computed"], results["rows"]) == ("finished", 2, 6)
    new = records(out)
    for place in (0, 2, 3, 4):
        assert new[place][NAME] == old[place][NAME]
    assert new[1]["title"] == "A new lamp"


def test_other_settings_are_refused_or_kept_apart(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = head(sample.catalog(), tmp_path / "shop.csv", 3)
    out = tmp_path / "out.csv"
    common: dict[str, Any] = {"model": str(tiny), "out": out}
    run_here(create(table, **common, **KIND))
    before = out.read_bytes()
    changed: dict[str, Any] = {**KIND, "instruction": "Find it."}
    with pytest.raises(JobError, match=r"\(instruction differs\)"):
        create(table, resume=True, **common, **changed)
    results = run_here(create(table, new=True, **common, **changed))[1]
    assert results["computed"] == 3
    # And back, without computing anything: the model is not even loaded.
    monkeypatch.setattr(CatalogModel, "answer", lambda *_: pytest.fail("asked"))
    results = run_here(create(table, resume=True, **common, **KIND))[1]
    assert results["computed"] == 0
    assert out.read_bytes() == before


def test_a_changed_mapping_is_named(tiny: Path, tmp_path: Path) -> None:
    table = head(sample.catalog(), tmp_path / "shop.csv", 2)
    common: dict[str, Any] = {"model": str(tiny), "out": tmp_path / "out.csv", "task": "SA"}
    run_here(create(table, mapping=["review=title"], **common))
    with pytest.raises(JobError, match=r"\(mapping differs\)"):
        create(table, mapping=["review=description"], resume=True, **common)


def test_bad_rows_go_to_the_rejects_file(tiny: Path, tmp_path: Path) -> None:
    table = tmp_path / "shop.csv"
    table.write_bytes(b'id,text\n1,good\n2\n3,"bad\n4,fine "x"\n5,"ok"\n6,caf\xe9 au lait\n')
    common: dict[str, Any] = {
        "model": str(tiny), "task": "SA", "mapping": ["review=text"], "encoding": "utf-8",
    }  # fmt: skip
    out = tmp_path / "out.csv"
    run = create(table, out=out, **common)
    results = run_here(run)[1]
    assert (results["rows"], results["rejected"]) == (3, 3)
    found = records(Path(results["rejects_file"]))
    assert [(r["line"], r["row"]) for r in found] == [
        ("3", "2"), ("4", '3,"bad'), ("7", "6,caf\\xe9 au lait"),
    ]  # fmt: skip
    assert all(row["reason"] for row in found)
    assert any(
        isinstance(e, events.Warned) and "3 rows" in e.message for e in run.reader().read()
    )
    with pytest.raises(DataError, match=r"shop\.csv:3: 1 cells instead of 2"):
        create(table, out=tmp_path / "strict.csv", strict=True, **common)


def test_a_table_without_any_usable_row_fails(tiny: Path, tmp_path: Path) -> None:
    table = tmp_path / "shop.csv"
    table.write_text("id,text\n1\n2\n")
    options: dict[str, Any] = {"model": str(tiny), "task": "SA", "mapping": ["review=text"]}
    with pytest.raises(DataError, match=r":2: no row can be used; the first one: 1 cells"):
        run_here(create(table, out=tmp_path / "out.csv", **options))
    table.write_text("id,text\n")
    with pytest.raises(DataError, match="no rows"):
        run_here(create(table, out=tmp_path / "out2.csv", **options))


def test_uncertain_rows_go_to_the_review_file(tiny: Path, tmp_path: Path) -> None:
    table = head(sample.catalog(), tmp_path / "shop.csv", 4)
    options: dict[str, Any] = {"model": str(tiny), **KIND}
    out = tmp_path / "out.csv"
    run = create(table, out=out, review_below=1.0, **options)
    results = run_here(run)[1]
    rows = records(out)
    assert {row["ecellm_kind"] for row in rows} <= {"Books", "Lamps", "Shoes"}
    assert all(0 < float(row["ecellm_kind_confidence"]) <= 1 for row in rows)
    assert results["review"] == sum(results["confidence"]) == 4
    review = records(Path(results["review_file"]))
    assert [r["ecellm_kind"] for r in review] == [r["ecellm_kind"] for r in rows]
    told = [e for e in run.reader().read() if isinstance(e, events.CatalogMetrics)]
    assert told[-1].confidence == results["confidence"]
    assert (told[-1].done, told[-1].total) == (4, 4)
    with pytest.raises(UsageError, match="--review-below"):
        create(table, out=out, review_below=7, **options)


def test_a_clash_of_names_gets_a_number(tiny: Path, tmp_path: Path) -> None:
    table = tmp_path / "shop.csv"
    table.write_text("text,ecellm_x,ecellm_x_2_error\ngood,1,2\n")
    out = tmp_path / "out.jsonl"
    options: dict[str, Any] = {"model": str(tiny), "task": "SA", "mapping": ["review=text"]}
    results = run_here(create(table, out=out, name="x", **options))[1]
    assert results["columns"] == ["ecellm_x_3", "ecellm_x_3_confidence", "ecellm_x_3_error"]
    record = json.loads(out.read_text())
    assert list(record) == ["text", "ecellm_x", "ecellm_x_2_error", *results["columns"]]


def test_answers_beyond_the_tables_encoding(
    tmp_path: Path, google: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(CatalogModel, "answer", answer_with("日本"))
    options: dict[str, Any] = {"model": str(tiny), "task": "SA", "mapping": ["review=name"]}
    run = create(google, out=tmp_path / "out.csv", **options)
    run_here(run)
    again = open_table(tmp_path / "out.csv")
    assert again.facts()["encoding"].startswith("UTF-8 with byte order mark")
    assert [row.cells[:5] for row in again.good_rows()] == [
        row.cells for row in open_table(google).good_rows()
    ]
    assert any("UTF-8" in getattr(event, "message", "") for event in run.reader().read())


def answer_with(text: str) -> Any:
    """A model that says one thing."""
    from ecellm_mlx.inference.answers import Answer
    from ecellm_mlx.inference.protocol import Decoding

    return lambda _, rows: (Answer(i, Decoding.VALID, text, 0.5) for i in range(len(rows)))


def test_a_row_that_cannot_be_asked_spoils_no_other(
    tmp_path: Path, google: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def answer(self: CatalogModel, rows: Any) -> Any:
        for row in rows:
            if "quickbooks" in row.input:
                raise DataError("row x is too long")
        return answer_with("A")(self, rows)

    monkeypatch.setattr(CatalogModel, "answer", answer)
    options: dict[str, Any] = {"model": str(tiny), "task": "SA", "mapping": ["review=name"]}
    results = run_here(create(google, out=tmp_path / "out.csv", **options))[1]
    rows = [row.cells for row in open_table(tmp_path / "out.csv").good_rows()]
    wrong = [row for row in rows if "quickbooks" in row[1]]
    assert results["errors"] == len(wrong)
    for row in rows:
        assert row[5:] == (
            ["", "", "row x is too long"] if row in wrong else ["A", "0.5000", ""]
        )


def test_shortened_inputs_are_named_by_line_and_counted(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop, out = tmp_path / "shop.csv", tmp_path / "out.csv"
    long = "a lamp that glows " * 600
    shop.write_text(f"title\nlamp\n{long}\n{long}\n{long} red\nshoe\n", encoding="utf-8")
    run = create(shop, model=str(tiny), out=out, max_words=5000, **KIND)
    _, results = run_here(run)
    assert results["shortened"] == 3
    told = [e.message for e in run.reader().read() if isinstance(e, events.Warned)]
    assert len(told) == 2
    assert told[0].startswith("line 3 and 1 equal ones: the prompt is too long")
    assert told[1].startswith("line 5: the prompt is too long")
    assert all(re.search(r"shortened by \d+ tokens$", message) for message in told)
    # Of many rows some are named and all are counted.
    monkeypatch.setattr(answering, "NAMED_SHORTENED", 1)
    other = create(shop, model=str(tiny), out=tmp_path / "b.csv", max_words=5000, **KIND)
    run_here(other)
    told = [e.message for e in other.reader().read() if isinstance(e, events.Warned)]
    assert len(told) == 2
    assert told[1] == "the inputs of 3 rows were shortened to fit into the model's context"


def test_the_table_may_not_change_under_the_job(
    tmp_path: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = head(sample.catalog(), tmp_path / "shop.csv", 3)
    options: dict[str, Any] = {"model": str(tiny), "task": "SA", "mapping": ["review=title"]}
    write = writing.write

    def changed(*arguments: Any, **more: Any) -> Any:
        text = table.read_text(encoding="utf-8")
        table.write_text(text.replace("Stream", "Dream"), encoding="utf-8")
        return write(*arguments, **more)

    monkeypatch.setattr(writing, "write", changed)
    with pytest.raises(JobError, match="changed while the job ran"):
        run_here(create(table, out=tmp_path / "out.csv", **options))
    assert not (tmp_path / "out.csv").exists()


def test_the_output_is_never_the_input(tiny: Path, tmp_path: Path) -> None:
    table = head(sample.catalog(), tmp_path / "shop.csv", 3)
    with pytest.raises(UsageError, match="the table itself"):
        create(table, out=table, model=str(tiny), **KIND)


def test_a_file_that_could_not_be_written_is_refused_before_the_work(
    tiny: Path, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=r"out.doc is no table of a known format"):
        create(sample.catalog(), model=str(tiny), out=tmp_path / "out.doc", **KIND)
    out = tmp_path / "out.csv"
    run_here(create(sample.catalog(), model=str(tiny), out=out, **KIND))
    plain = tmp_path / "plain"
    plain.touch()
    # Not mkstemp's private ones.
    assert out.stat().st_mode == plain.stat().st_mode
