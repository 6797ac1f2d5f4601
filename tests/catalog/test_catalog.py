"""Tables keep their cells; a killed run goes on where it was."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import pytest

from ecellm_mlx import jobs, sample
from ecellm_mlx.catalog import job, mapping, tables
from ecellm_mlx.catalog.journal import Entry, Journal
from ecellm_mlx.data.tasks import find
from ecellm_mlx.errors import DataError, JobError, UsageError

MAPPING = ("product title=title", "target attributes=:Brand")


def table_file(folder: Path, content: bytes, name: str = "t.csv") -> Path:
    path = folder / name
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    ("content", "encoding", "delimiter", "line_end"),
    [
        (b"id,name\n1,a\n", "utf-8", ",", "\n"),
        (b"\xef\xbb\xbfid;name\r\n1;\xc3\xa9\r\n", "utf-8-sig", ";", "\r\n"),
        (b"id\tname\n1\tcaf\xe9 \x80 5\n", "cp1252", "\t", "\n"),
    ],
)
def test_dialects_are_found_and_kept(
    tmp_path: Path, content: bytes, encoding: str, delimiter: str, line_end: str
) -> None:
    table = tables.read(table_file(tmp_path, content))
    assert table.dialect == tables.Dialect(encoding, delimiter, line_end)
    out = tmp_path / "out.csv"
    tables.write(out, table.dialect, table.header, table.rows)
    assert out.read_bytes() == content


def test_the_messy_sample_keeps_every_cell(tmp_path: Path) -> None:
    table = tables.read(sample.catalog())
    out = tmp_path / "out.csv"
    tables.write(out, table.dialect, table.header, table.rows)
    again = tables.read(out)
    assert (again.header, again.rows) == (table.header, table.rows)
    assert len(table.rows) >= 50
    assert any("\n" in cell for row in table.rows for cell in row)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"id,name\n", "no rows"),
        (b"id,id\n1,2\n", "different name"),
        (b"id,name\n1,a\n2\n", r"t\.csv:3: .*expected 2 cells, got 1"),
        (b'id,name\n1,"a\n', "no valid CSV"),
        (b"id,name\n1,\x81\n", "neither UTF-8 nor Windows-1252"),
        (b"PK\x03\x04\0\0", "null bytes"),
    ],
)
def test_bad_tables_are_a_sentence(tmp_path: Path, content: bytes, message: str) -> None:
    with pytest.raises(DataError, match=message):
        tables.read(table_file(tmp_path, content))


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"\.xlsx"):
        tables.read(table_file(tmp_path, b"", "t.xlsx"))
    with pytest.raises(DataError, match="does not exist"):
        tables.read(tmp_path / "none.csv")


def test_mapping_problems_are_reported_together() -> None:
    task = find("AVE")
    with pytest.raises(UsageError) as caught:
        mapping.parse(["colour=title", "product title=nmae", "x"], task, ["title"])
    for part in ("'colour'", "'nmae'", "'x'", "'target attributes' is not mapped"):
        assert part in str(caught.value)


def test_journal_refuses_another_configuration(tmp_path: Path) -> None:
    path = tmp_path / "j.sqlite"
    journal = Journal(path, {"model": "a", "task": "x"})
    journal.add([Entry("k", "v", 0.5)])
    journal.close()
    again = Journal(path, {"model": "a", "task": "x"})
    assert again.entries() == {"k": Entry("k", "v", 0.5, "")}
    again.close()
    with pytest.raises(JobError, match="model differ"):
        Journal(path, {"model": "b", "task": "x"})


def run_in_process(run: jobs.RunDirectory) -> tuple[str, dict[str, Any]]:
    context = jobs.JobContext(run)
    try:
        return job.run_job(context)
    finally:
        context.close()


def test_a_stopped_run_resumes_to_the_same_table(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tables.read(sample.catalog())
    small = tmp_path / "small.csv"
    # Two rows are equal, one has no title at all.
    chosen = [*source.rows[:5], source.rows[0], [""] * len(source.header)]
    tables.write(small, source.dialect, source.header, chosen)
    options: dict[str, Any] = {
        "task": "AVE", "mapping": MAPPING, "model": str(tiny), "batch_size": 2,
    }  # fmt: skip

    whole = job.launch(small, out=tmp_path / "whole.csv", run=tmp_path / "w", **options)
    outcome, results = run_in_process(whole)
    assert outcome == "finished"
    assert results["rows"] == 7
    assert results["errors"] == 1

    parts = job.launch(small, out=tmp_path / "parts.csv", run=tmp_path / "p1", **options)
    with monkeypatch.context() as patch:
        patch.setattr(jobs.JobContext, "poll", lambda *_: jobs.Control.STOP)
        assert run_in_process(parts)[0] == "stopped"
    assert not (tmp_path / "parts.csv").exists()
    with pytest.raises(JobError, match="--resume"):
        job.launch(small, out=tmp_path / "parts.csv", **options)
    resumed = job.launch(
        small, out=tmp_path / "parts.csv", run=tmp_path / "p2", resume=True, **options
    )
    assert run_in_process(resumed)[0] == "finished"
    assert (tmp_path / "parts.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()

    text = (tmp_path / "whole.csv").read_text(encoding="utf-8")
    written = list(csv.DictReader(io.StringIO(text, newline="")))
    name = "ecellm_attribute_value_extraction"
    assert [list(row.values())[: len(source.header)] for row in written] == chosen
    assert written[0][name] == written[5][name] != ""
    assert "product title" in written[6][f"{name}_error"]
