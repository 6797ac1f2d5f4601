"""Tables of five formats: every untouched cell comes out as it went in."""

from __future__ import annotations

import csv
import datetime
import io
import json
import zipfile
from pathlib import Path
from typing import Any

import openpyxl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from ecellm_mlx import sample, tables
from ecellm_mlx.errors import DataError, UsageError
from ecellm_mlx.tables import BadRow, Column, TableRow, open_table
from ecellm_mlx.tables.spill import TextList

pytestmark = pytest.mark.unit

COLUMNS = (Column("answer"), Column("sure", numeric=True))


def file(folder: Path, content: bytes, name: str = "t.csv") -> Path:
    path = folder / name
    path.write_bytes(content)
    return path


def extend(source: Path, out: Path, answer: str = "A, “B”", **options: Any) -> Path:
    """Append an answer and a number to every good row."""
    table = open_table(source, **options)
    with tables.writer(table, out, COLUMNS) as writer:
        for row in table.good_rows():
            writer.write(row, [answer, 0.25])
    return out


def cells(path: Path, **options: Any) -> list[list[str]]:
    return [row.cells for row in open_table(path, **options).good_rows()]


@pytest.mark.parametrize(
    ("content", "encoding", "delimiter", "ends"),
    [
        (b"id,name\n1,a\n", "UTF-8 (plain ASCII)", "comma", "LF"),
        (b"\xef\xbb\xbfid;name\r\n1;\xc3\xa9\r\n", "UTF-8 with byte", "semicolon", "CRLF"),
        (b"id\tname\n1\tcaf\xe9 \x80 5\n", "Windows-1252", "tab", "LF"),
        (b"id|name\r1|a\r2|b\r", "UTF-8", "bar", "CR"),
        ("id\tname\r\n1\tGröße 😀\r\n".encode("utf-16"), "UTF-16-LE with byte", "tab", "CRLF"),
        ("id,name\n1,Größe\n".encode("utf-16-be"), "UTF-16-BE (detected)", "comma", "LF"),
        ("id;name\n1;Красная обувь для бега\n".encode("cp1251"), "Windows-1251", "semi", "LF"),
        ("id,name\n1,日本語の商品名、とても良い\n".encode("cp932"), "Shift JIS", "comma", "LF"),
        ("id,name\n1,Žluťoučký kůň úpěl ďábelské ódy na louce\n".encode("cp1250"),
         "Windows-1250", "comma", "LF"),
    ],
)  # fmt: skip
def test_a_dialect_is_found_and_kept(
    tmp_path: Path, content: bytes, encoding: str, delimiter: str, ends: str
) -> None:
    source = file(tmp_path, content)
    facts = open_table(source).facts()
    assert facts["encoding"].startswith(encoding)
    assert facts["delimiter"].startswith(delimiter)
    assert facts["line ends"] == ends
    # Without the new cells the output is the input, byte for byte.
    out = extend(source, tmp_path / "out.csv", answer="yes")
    table = open_table(source)
    assert isinstance(table, tables.DelimitedTable)
    code, mark = table.dialect.encoding.name, table.dialect.delimiter
    written = out.read_bytes()
    for added in (f"{mark}answer{mark}sure", f"{mark}yes{mark}0.2500"):
        assert added.encode(code) in written
        written = written.replace(added.encode(code), b"")
    assert written == content


@pytest.mark.parametrize("name", ["sample", "google", "amazon"])
def test_real_catalogs_keep_every_byte(
    tmp_path: Path, name: str, request: pytest.FixtureRequest
) -> None:
    source = sample.catalog() if name == "sample" else request.getfixturevalue(name)
    table = open_table(source)
    rows = list(table.rows())
    assert not [row for row in rows if isinstance(row, BadRow)]
    out = extend(source, tmp_path / "out.csv", answer="yes")
    new = 'answer","sure' if name != "sample" else "answer,sure"
    assert new.encode() in out.read_bytes()
    rest = iter(out.read_bytes().splitlines(keepends=True))
    again = cells(out)
    assert [row[:-2] for row in again] == [row.cells for row in rows]
    # Each input line is in the output, whole or as the start of a line.
    for line in source.read_bytes().splitlines(keepends=True):
        assert next(rest).startswith(line.rstrip(b"\r\n"))


def test_the_catalogs_have_the_traits_they_are_here_for(google: Path) -> None:
    with pytest.raises(UnicodeDecodeError):
        google.read_bytes().decode("utf-8")
    assert any("®" in cell for row in cells(google) for cell in row)
    text = "".join(cell for row in cells(sample.catalog()) for cell in row)
    assert "\n" in text
    assert '"' in text
    assert any(ord(character) > 0x1F000 for character in text)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b'a,b\n1,"say ""hi""\n there"\n', ["1", 'say "hi"\n there']),
        (b'a,b\n1,"say \\"hi\\", you"\n2,x\n', ["1", 'say "hi", you']),
        (b"a,b\n1,'x, y'\n2,'z, w'\n", ["1", "x, y"]),
        (b'a\tb\n1\t"5 inch" disk\n2\t"3 inch" disk\n', ["1", '"5 inch" disk']),
        (b"a;b\n1;2,5\n2;3,5\n", ["1", "2,5"]),
    ],
)
def test_quoting_is_found(tmp_path: Path, content: bytes, expected: list[str]) -> None:
    source = file(tmp_path, content)
    assert cells(source)[0] == expected
    again = cells(extend(source, tmp_path / "out.csv", answer="x, \"y\";'z'"))
    assert again[0][:2] == expected
    assert again[0][2].replace("\t", " ") == "x, \"y\";'z'"


text_cell = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20
)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    rows=st.lists(st.tuples(text_cell, text_cell, text_cell), min_size=1, max_size=8),
    ends=st.sampled_from(["\n", "\r\n"]),
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
)
def test_any_text_survives(
    tmp_path: Path, rows: list[tuple[str, ...]], ends: str, quoting: Any
) -> None:
    # Python's writer leaves a lone carriage return bare, which makes it a line end.
    assume(quoting == csv.QUOTE_ALL or "\r" not in "".join(map("".join, rows)))
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator=ends, quoting=quoting)
    writer.writerow(["a", "b", "c"])
    writer.writerows(rows)
    content = text.getvalue().encode()
    source = file(tmp_path, content)
    # What is tested is reading and writing; such short files may look like anything.
    options = {"encoding": "utf-8", "delimiter": ","}
    found = open_table(source, **options)
    assert [row.cells for row in found.good_rows()] == [list(row) for row in rows]
    out = extend(source, tmp_path / "out.csv", **options)
    parsed = list(csv.reader(io.StringIO(out.read_bytes().decode(), newline="")))
    assert parsed[1:] == [[*row, "A, “B”", "0.2500"] for row in rows]
    for kind in (".jsonl", ".parquet", ".tsv"):
        other = tmp_path / f"other{kind}"
        with tables.writer(found, other, COLUMNS) as convert:
            for row in found.good_rows():
                convert.write(row, ["x", 0.5])
        reading = {"encoding": "utf-8", "delimiter": "tab"} if kind == ".tsv" else {}
        assert [row[:3] for row in cells(other, **reading)] == [list(row) for row in rows]


def test_bad_rows_are_kept_apart_and_nothing_else_is_lost(tmp_path: Path) -> None:
    content = (
        b"id,name\n"
        b"1,good\n"
        b"2\n"  # too few
        b"3,too,many\n"
        b'4,"never closed\n'
        b"5,caf\xc3\xa9\n"
        b"6,half \xe2\x82\n"  # half of a euro sign
        b'7,"two\nlines"\n'
        b'8,"a"b\n'
        b"9,last"
    )  # fmt: skip
    # In so few lines, one valid and one broken could be any encoding.
    rows = list(open_table(file(tmp_path, content), encoding="utf-8").rows())
    good = [row for row in rows if isinstance(row, TableRow)]
    bad = [row for row in rows if isinstance(row, BadRow)]
    assert [row.cells for row in good] == [
        ["1", "good"], ["5", "café"], ["7", "two\nlines"], ["9", "last"],
    ]  # fmt: skip
    assert [(row.line, row.raw) for row in bad] == [
        (3, b"2\n"), (4, b"3,too,many\n"), (5, b'4,"never closed\n'),
        (7, b"6,half \xe2\x82\n"), (10, b'8,"a"b\n'),
    ]  # fmt: skip
    reasons = ("1 cells", "3 cells", "quotation mark", "byte 0xE2", "quotation mark")
    for row, reason in zip(bad, reasons, strict=True):
        assert reason in row.reason
    assert b"".join(sorted((r.raw for r in rows), key=lambda raw: raw[:1])) == content[8:]


def test_a_quotation_mark_that_is_never_closed_costs_one_line(tmp_path: Path) -> None:
    lines = [
        b"id,name\n",
        b'0,"oops\n',
        b'x,"fine"\n',
        *(b"%d,row %d\n" % (i, i) for i in range(1, 60_000)),
    ]
    rows = list(open_table(file(tmp_path, b"".join(lines))).rows())
    assert sum(isinstance(row, BadRow) for row in rows) == 1
    assert len(rows) == 60_001


def test_answers_that_the_encoding_lacks_ask_for_utf8(tmp_path: Path, google: Path) -> None:
    table = open_table(google)
    row = next(table.good_rows())
    with pytest.raises(tables.EncodingGap):  # noqa: SIM117 - the error comes from inside
        with table.appender(tmp_path / "out.csv", COLUMNS) as writer:
            writer.write(row, ["日本", 0.5])
    assert not (tmp_path / "out.csv").exists()
    with table.appender(tmp_path / "out.csv", COLUMNS, as_utf8=True) as writer:
        for row in table.good_rows():
            writer.write(row, ["日本", 0.5])
    assert [row[:-2] for row in cells(tmp_path / "out.csv")] == cells(google)


def test_json_lines_are_copied_as_text(tmp_path: Path) -> None:
    lines = [
        '{"id": 1, "price": 0.10, "tags": ["a", "b"], "name": "caf\\u00e9"}',
        "",
        '{"name":"😀","extra":null,"big":12345678901234567890}',
        "not json",
        "[1]",
        "{}",
    ]
    source = file(tmp_path, "\n".join(lines).encode(), "t.jsonl")
    table = open_table(source)
    assert table.header == ["id", "price", "tags", "name", "extra", "big"]
    rows = list(table.rows())
    assert isinstance(rows[0], TableRow)
    assert rows[0].cells == ["1", "0.10", '["a", "b"]', "café", "", ""]
    assert [row.line for row in rows if isinstance(row, BadRow)] == [4, 5]
    written = extend(source, tmp_path / "out.jsonl").read_text(encoding="utf-8").splitlines()
    assert written[0].startswith(lines[0][:-1])
    assert json.loads(written[1])["answer"] == "A, “B”"
    assert json.loads(written[1])["sure"] == 0.25
    assert written[2] == '{"answer": "A, “B”", "sure": 0.25}'


def test_parquet_keeps_arrow_types(tmp_path: Path) -> None:
    source = tmp_path / "t.parquet"
    table = pa.table(
        {
            "id": pa.array([1, None, 3], pa.int32()),
            "name": ["a", "é", None],
            "when": pa.array([datetime.date(2024, 1, 2), None, None]),
            "tags": [["x"], [], None],
        }
    )
    pq.write_table(table, source)
    assert cells(source)[0] == ["1", "a", "2024-01-02", '["x"]']
    assert cells(source)[2] == ["3", "", "", ""]
    out = pq.read_table(extend(source, tmp_path / "out.parquet"))
    assert out.select(table.column_names).equals(table)
    assert out.column("sure").to_pylist() == [0.25] * 3


def workbook(path: Path) -> Path:
    book = openpyxl.Workbook()
    sheet = book.active
    assert sheet is not None
    sheet.title = "stock"
    sheet.append(["id", "name", "price", "added", "total"])
    sheet.append([1, "Lamp <b> & 'co'", 9.5, datetime.datetime(2024, 5, 6), "=C2*2"])
    sheet.append([2, "two\nlines 😀", None, None, None])
    sheet.append([])
    sheet.append([3, " spaces ", 0.1 + 0.2, datetime.datetime(2024, 5, 6, 7, 8), "=C5*2"])
    sheet["A1"].font = openpyxl.styles.Font(bold=True)
    sheet.column_dimensions["B"].width = 40
    book.create_sheet("notes").append(["kept"])
    book.save(path)
    return path


def test_workbooks_keep_all_that_is_not_ours(tmp_path: Path) -> None:
    source = workbook(tmp_path / "t.xlsx")
    assert cells(source)[0][:4] == ["1", "Lamp <b> & 'co'", "9.5", "2024-05-06"]
    out = extend(source, tmp_path / "out.xlsx", answer="<&> \x01\r\n=1")
    before, after = openpyxl.load_workbook(source), openpyxl.load_workbook(out)
    for sheet in before:
        for row in sheet.iter_rows():
            for cell in row:
                twin = after[sheet.title][cell.coordinate]
                assert twin.value == cell.value
                assert twin.number_format == cell.number_format
                assert repr(twin.font) == repr(cell.font)
    stock = after["stock"]
    assert [stock["F1"].value, stock["G1"].value] == ["answer", "sure"]
    assert [stock[f"G{n}"].value for n in range(2, 6)] == [0.25, 0.25, None, 0.25]
    assert stock["F2"].value == "<&> \ufffd\r\n=1"
    assert stock["F2"].data_type == "s"
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(out) as new:
        assert old.namelist() != []
        for name in set(old.namelist()) - {"xl/worksheets/sheet1.xml"}:
            assert new.read(name) == old.read(name)
    with pytest.raises(DataError, match="no sheet 'x'"):
        open_table(source, sheet="x")
    assert open_table(source, sheet="notes").header == ["kept"]


def test_shared_strings_come_from_disk() -> None:
    with TextList() as texts:
        for number in range(1000):
            texts.append(f"é{number}")
        assert texts[999] == "é999"
        texts.append("late")
        assert [texts[0], texts[1000], len(texts)] == ["é0", "late", 1001]
        with pytest.raises(IndexError):
            texts[1001]


@pytest.mark.parametrize("kind", [".csv", ".tsv", ".jsonl", ".parquet", ".xlsx"])
@pytest.mark.parametrize("target", [".csv", ".tsv", ".jsonl", ".parquet", ".xlsx"])
def test_every_format_becomes_every_other(tmp_path: Path, kind: str, target: str) -> None:
    first = tmp_path / f"first{kind}"
    original = open_table(sample.catalog())
    expected = [row.cells for row in original.good_rows()]
    with tables.writer(original, first, COLUMNS) as writer:
        for row in original.good_rows():
            writer.write(row, ["x", 0.5])
    table = open_table(first)
    with tables.writer(table, tmp_path / f"second{target}", [Column("more")]) as writer:
        for row in table.good_rows():
            writer.write(row, ["y"])
    again = open_table(tmp_path / f"second{target}")
    assert again.names == [*original.names, "answer", "sure", "more"]
    assert [row.cells[: len(original.names)] for row in again.good_rows()] == expected


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.csv", b"", "is empty"),
        ("t.csv", b"PK\x03\x04\0\0\x07", "null bytes"),
        ("t.csv", b"a\x81,b\n1,2\n", "header cannot be read: byte 0x81"),
        ("t.doc", b"x", r"\.doc"),
        ("t.jsonl", b"1\n2\n", "no JSON object"),
        ("t.parquet", b"PAR1 no", "no Parquet file"),
        ("t.xlsx", b"PK\x03\x04", "no XLSX workbook"),
    ],
)
def test_what_is_no_table_is_a_sentence(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        open_table(file(tmp_path, content, name))


def test_options_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        open_table(tmp_path / "none.csv")
    with pytest.raises(DataError, match="is a folder"):
        open_table(tmp_path)
    source = file(tmp_path, b"a,b\n1,2\n")
    with pytest.raises(UsageError, match="--sheet"):
        open_table(source, sheet="x")
    with pytest.raises(UsageError, match="--encoding no-such"):
        open_table(source, encoding="no-such")
    with pytest.raises(UsageError, match="one character"):
        open_table(source, delimiter="ab")
    assert open_table(source, delimiter="tab").header == ["a,b"]
    with pytest.raises(UsageError, match="CSV and TSV"):
        open_table(file(tmp_path, b"{}", "t.jsonl"), encoding="utf-8")


def test_repeated_and_empty_titles_are_told_apart(tmp_path: Path) -> None:
    table = open_table(file(tmp_path, b"name,,name, \n1,2,3,4\n"))
    assert table.names == ["name", "#2", "name#2", "#4"]
