"""Tables as shops export them: what stands around the rows is recognised, kept, never asked."""

from __future__ import annotations

import gzip
import json
import xml.etree.ElementTree as ET
from pathlib import Path

import openpyxl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ecellm_mlx import tables
from ecellm_mlx.errors import DataError, UsageError
from ecellm_mlx.tables import BadRow, Column, TableRow, header, open_table

pytestmark = pytest.mark.unit

CASES = Path(__file__).with_name("cases")
COLUMNS = (Column("answer"), Column("sure", numeric=True))


def extend(source: Path, out: Path, **options: object) -> bytes:
    """Append an answer and a number to every row that holds something."""
    table = open_table(source, **options)  # type: ignore[arg-type]
    with tables.writer(table, out, COLUMNS) as writer:
        for row in table.good_rows():
            writer.write(row, ["", None] if row.blank else ["yes", 0.25])
    return out.read_bytes()


def test_an_empty_cell_behind_the_last_column_stays_the_last(tmp_path: Path) -> None:
    source = CASES / "04-trailing-separator.csv"
    assert [row.cells for row in open_table(source).good_rows()] == [
        ["1", "Red mug", "A large red mug"],
        ["2", "Blue mug", "A small blue mug"],
    ]
    assert extend(source, tmp_path / "out.csv").decode().splitlines() == [
        "sku;name;description;answer;sure",
        "1;Red mug;A large red mug;yes;0.2500;",
        "2;Blue mug;A small blue mug;yes;0.2500;",
    ]
    again = list(open_table(tmp_path / "out.csv").good_rows())
    assert again[0].cells == ["1", "Red mug", "A large red mug", "yes", "0.2500"]


@pytest.mark.parametrize(
    ("name", "titles", "line", "above"),
    [
        ("05-title-line.csv", ["SKU", "Name", "Price"], 2, b"Monthly price list,,\n"),
        (
            "05-info-line.csv",
            ["Action(SiteID=US)", "Custom label (SKU)", "Title", "Price"],
            2,
            b"#INFO,Version=1,,\n",
        ),
    ],
)
def test_lines_above_the_header_are_copied(
    tmp_path: Path, name: str, titles: list[str], line: int, above: bytes
) -> None:
    table = open_table(CASES / name)
    assert table.header == titles
    assert table.facts()["header"].startswith(f"line {line} (1 row above it")
    assert len(list(table.good_rows())) == 2
    assert extend(CASES / name, tmp_path / "out.csv").startswith(above + titles[0].encode())


AMAZON = (
    b"TemplateType=home\tVersion=2024.1\tThe top 3 rows are for the template\t\n"
    b"Seller SKU\tProduct Name\tBrand\tColor\n"
    b"item_sku\titem_name\tbrand_name\tcolor_name\n"
    b"A-1\tRed mug\tAcme\tRed\n"
)
NEWER = (
    b"settings=attributeRow=4&contentLanguageTag=en_US&dataRow=5\t\t\n"
    b"Templates\t\t\n"
    b"SKU\tItem Name\tBrand Name\n"
    b"sku\titem_name\tbrand\n"
    b"A-1\tRed mug\tAcme\n"
)


@pytest.mark.parametrize(
    ("content", "titles", "rows"),
    [
        (AMAZON, ["item_sku", "item_name", "brand_name", "color_name"], 1),
        (NEWER, ["sku", "item_name", "brand"], 1),
        (b"sep=;\r\nsku;name\r\n1;Red mug\r\n", ["sku", "name"], 1),
        (
            b"Stock list\n\nsku,name,size\nA,Red mug,L\nB,Blue mug,S\n",
            ["sku", "name", "size"],
            2,
        ),
        # A header that is not full, a numbered one, and one of a single column are headers.
        (b"sku,name,,\nA,Red mug,x,y\nB,Blue mug,x,y\n", ["sku", "name", "", ""], 2),
        (b"#,name\n1,Red mug\n2,Blue mug\n", ["#", "name"], 2),
        (b"name\nRed mug\nBlue mug\n", ["name"], 2),
        # What follows a sparse line looks like no header.
        (b"name,,\n1,2,3\n4,5,6\n", ["name", "", ""], 2),
    ],
)
def test_the_header_is_found(
    tmp_path: Path, content: bytes, titles: list[str], rows: int
) -> None:
    source = tmp_path / "t.txt"
    source.write_bytes(content)
    table = open_table(source)
    assert table.header == titles
    assert len(list(table.good_rows())) == rows
    first = content.index("\t".join(titles).encode()) if b"\t" in content else 0
    assert extend(source, tmp_path / "out.txt").startswith(content[:first])


def test_a_person_names_the_header(tmp_path: Path) -> None:
    source = tmp_path / "t.csv"
    source.write_bytes(b"a,b\nc,d\n1,2\n")
    table = open_table(source, header_row=2)
    assert table.header == ["c", "d"]
    assert [row.cells for row in table.good_rows()] == [["1", "2"]]
    with pytest.raises(DataError, match="no record that starts at line 9"):
        open_table(source, header_row=9)
    with pytest.raises(UsageError, match="counts from 1"):
        open_table(source, header_row=0)
    lines = tmp_path / "t.jsonl"
    lines.write_text("{}", encoding="utf-8")
    with pytest.raises(UsageError, match="--header-row"):
        open_table(lines, header_row=1)


def test_rows_of_separators_are_blank(tmp_path: Path) -> None:
    source = CASES / "07-comma-only-rows.csv"
    rows = list(open_table(source).rows())
    assert not [row for row in rows if isinstance(row, BadRow)]
    assert [row.blank for row in rows if isinstance(row, TableRow)] == [False, True] * 2
    assert extend(source, tmp_path / "out.csv").decode().splitlines()[2] == ",,,,"
    uneven = tmp_path / "uneven.csv"
    uneven.write_bytes(b"id,name,size\n1,Mug,L\n,\n,,,,\n")
    assert extend(uneven, tmp_path / "out2.csv").decode().splitlines()[2:] == [",,,,", ",,,,,,"]
    assert not [r for r in open_table(tmp_path / "out2.csv").rows() if isinstance(r, BadRow)]


def test_literal_quotation_marks(tmp_path: Path) -> None:
    source = tmp_path / "t.tsv"
    source.write_bytes(b'id\tname\n1\t19" rack\n2\t"Best" mug\n3\t"open\n4\tplain\n')
    rows = list(open_table(source, quote="none").good_rows())
    assert [row.cells[1] for row in rows] == ['19" rack', '"Best" mug', '"open', "plain"]
    with pytest.raises(UsageError, match="--quote odd"):
        open_table(source, quote="odd")


def test_json_may_be_lines_or_an_array(tmp_path: Path) -> None:
    lines, array = (CASES / f"06-json-{kind}.json" for kind in ("lines", "array"))
    assert [row.cells for row in open_table(lines).good_rows()] == [
        row.cells for row in open_table(array).good_rows()
    ]
    assert open_table(array).facts()["format"] == "JSON array"
    written = extend(array, tmp_path / "array.json").decode()
    assert json.loads(written)[1]["answer"] == "yes"
    assert written.replace(', "answer": "yes", "sure": 0.25', "") == array.read_text()
    assert extend(lines, tmp_path / "lines.json").count(b'"sure": 0.25}\n') == 2
    extend(lines, tmp_path / "lines.jsonl")
    table = tmp_path / "t.csv"
    table.write_bytes(b"id,name\n1,a\n2,b\n")
    assert json.loads(extend(table, tmp_path / "new.json"))[0] == {
        "id": "1", "name": "a", "answer": "yes", "sure": 0.25,
    }  # fmt: skip


objects = st.dictionaries(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=5),
    st.one_of(st.none(), st.integers(), st.text(st.characters(exclude_categories=["Cs"]))),
    min_size=1,
    max_size=4,
)


@settings(max_examples=60, deadline=None)
@given(items=st.lists(objects, min_size=1, max_size=6), indent=st.sampled_from([None, 0, 2]))
def test_any_array_keeps_its_text(
    tmp_path_factory: pytest.TempPathFactory, items: list[dict[str, object]], indent: int | None
) -> None:
    folder = tmp_path_factory.mktemp("array")
    source = folder / "t.json"
    source.write_text(json.dumps(items, indent=indent), encoding="utf-8", newline="")
    table = open_table(source)
    with tables.writer(table, folder / "out.json", [Column("\0new")]) as writer:
        for row in table.good_rows():
            writer.write(row, ["x"])
    written = json.loads((folder / "out.json").read_bytes())
    assert written == [{**item, "\0new": "x"} for item in items]
    text = (folder / "out.json").read_text(encoding="utf-8")
    assert text.replace(', "\\u0000new": "x"', "").rstrip("\n") == source.read_text("utf-8")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'[{"a": 1}, {"a": ]', "object 2 is no valid JSON"),
        (b'[{"a": 1} {"a": 2}]', "expected ','"),
        (b'[{"a": 1}', "expected ','"),
        (b'[{"a": "caf\xe9"}]', "byte 0xE9"),
        (b"[]", "holds no JSON object"),
        (b"[1, 2]", "holds no JSON object"),
    ],
)
def test_a_damaged_array_is_a_sentence(tmp_path: Path, content: bytes, message: str) -> None:
    source = tmp_path / "t.json"
    source.write_bytes(content)
    with pytest.raises(DataError, match=message):
        open_table(source)


@pytest.mark.parametrize("name", ["t.csv.gz", "t.tab", "t.TSV.GZ"])
def test_packed_tables_and_other_endings(tmp_path: Path, name: str) -> None:
    content = b"id\tname\n1\tRed mug\n"
    source = tmp_path / name
    packed = name.lower().endswith(".gz")
    source.write_bytes(gzip.compress(content) if packed else content)
    assert [row.cells for row in open_table(source).good_rows()] == [["1", "Red mug"]]
    out = extend(source, tmp_path / f"out{name[1:]}")
    expected = b"id\tname\tanswer\tsure\n1\tRed mug\tyes\t0.2500\n"
    assert (gzip.decompress(out) if packed else out) == expected


def test_a_cut_archive_is_a_sentence(tmp_path: Path) -> None:
    source = tmp_path / "t.csv.gz"
    source.write_bytes(gzip.compress(b"id,name\n" + b"1,mug\n" * 99_999)[:-30])
    with pytest.raises(DataError, match="cannot be unpacked"):
        list(open_table(source).rows())
    source.write_bytes(b"id,name\n")
    with pytest.raises(DataError, match="cannot be unpacked"):
        open_table(source)


def test_a_merchant_feed_keeps_every_byte(tmp_path: Path) -> None:
    source = CASES / "06-merchant-feed.xml"
    table = open_table(source)
    assert table.names == ["id", "title", "description", "brand", "price"]
    rows = list(table.good_rows())
    assert rows[0].cells == [
        "1", "Big red mug", "A mug that holds half a litre & more.", "Acme", "9.90 EUR",
    ]  # fmt: skip
    assert rows[1].cells[2] == "<p>Solid oak</p>"
    written = extend(source, tmp_path / "out.xml")
    added = b"<g:answer>yes</g:answer><g:sure>0.2500</g:sure>"
    assert written.count(added + b"</item>") == 2
    assert written.replace(added, b"") == source.read_bytes()
    assert ET.fromstring(written).findtext(".//{http://base.google.com/ns/1.0}answer") == "yes"
    extend(source, tmp_path / "out.csv")
    assert open_table(tmp_path / "out.csv").names == [*table.names, "answer", "sure"]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "iso-8859-1"])
def test_an_atom_feed(tmp_path: Path, encoding: str) -> None:
    text = (
        f'<?xml version="1.0" encoding="{encoding}"?>\n'
        '<feed xmlns="http://www.w3.org/2005/Atom" xmlns:p="http://base.google.com/ns/1.0">\n'
        "<entry/>\n"
        '<entry><p:id>1</p:id><p:title>Café</p:title><link href="https://example.com/1"/>\n'
        "<p:shipping><p:country>FR</p:country><p:price>5 EUR</p:price></p:shipping>\n"
        "<p:image>a</p:image><p:image>b</p:image></entry></feed>\n"
    )
    source = tmp_path / "t.xml"
    source.write_bytes(text.encode(encoding))
    table = open_table(source)
    row = dict(zip(table.names, next(table.good_rows()).cells, strict=True))
    assert row == {
        "id": "1", "title": "Café", "link": "https://example.com/1",
        "shipping": "FR 5 EUR", "image": "a, b",
    }  # fmt: skip
    with tables.writer(table, tmp_path / "out.xml", [Column("ecellm name")]) as writer:
        for row_ in table.good_rows():
            writer.write(row_, ["日本 & <co>"])
    tree = ET.fromstring((tmp_path / "out.xml").read_bytes())
    assert tree.findtext(".//{http://base.google.com/ns/1.0}ecellm_name") == "日本 & <co>"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"<rss><item><title>x</title></rss>", "is damaged"),
        (b"<rss></rss>", "holds no product"),
        (b'<!DOCTYPE r [<!ENTITY a "b">]><rss><item><t>&a;</t></item></rss>', "entity 'a'"),
    ],
)
def test_what_is_no_feed_is_a_sentence(tmp_path: Path, content: bytes, message: str) -> None:
    source = tmp_path / "t.xml"
    source.write_bytes(content)
    with pytest.raises(DataError, match=message):
        open_table(source)
    with pytest.raises(DataError, match="no table of a known format"):
        extend(CASES / "09-stars.csv", tmp_path / "new.xml")


def test_a_workbook_with_a_title_and_notes_beside_the_table(tmp_path: Path) -> None:
    book = openpyxl.Workbook()
    sheet = book.active
    assert sheet is not None
    sheet.append(["Price list, autumn"])
    sheet.merge_cells("A1:C1")
    sheet.append([])
    sheet.append(["SKU", "Name", "Price"])
    sheet.append(["A-1", "Red mug", 9.9])
    sheet.append(["A-2", "Blue mug", 7.9, None, "ask the supplier"])
    sheet["G5"].font = openpyxl.styles.Font(bold=True)
    source = tmp_path / "t.xlsx"
    book.save(source)
    table = open_table(source)
    assert table.header == ["SKU", "Name", "Price", "", ""]
    assert table.facts()["header"] == "line 3 (1 row above it, copied as it is)"
    rows = list(table.rows())
    assert isinstance(rows[1], TableRow)
    assert rows[1].cells == ["A-2", "Blue mug", "7.9", "", "ask the supplier"]
    extend(source, tmp_path / "out.xlsx")
    after = openpyxl.load_workbook(tmp_path / "out.xlsx").active
    assert after is not None
    assert [after["H3"].value, after["H4"].value, after["I5"].value] == ["answer", "yes", 0.25]
    assert after["E5"].value == "ask the supplier"
    assert after["A1"].value == "Price list, autumn"
    named = open_table(source, header_row=4)
    assert named.header[:2] == ["A-1", "Red mug"]
    with pytest.raises(DataError, match="no header in row 2"):
        open_table(source, header_row=2)


def test_a_header_needs_titles() -> None:
    assert header.header_place([["a", "b"], ["1", "2"]]) == 0
    assert header.header_place([[]]) == 0
    assert header.header_place([]) == 0
