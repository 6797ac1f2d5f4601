"""From columns to prompts: mappings, guesses, own labels, what a row becomes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ecellm_mlx import sample
from ecellm_mlx.catalog import lists, saved
from ecellm_mlx.data import rows
from ecellm_mlx.data.question import Question, build
from ecellm_mlx.errors import DataError, UsageError
from ecellm_mlx.tables import mapping, open_table
from ecellm_mlx.tables.guess import guess
from ecellm_mlx.tasks.registry import TASKS, find

pytestmark = pytest.mark.unit


def table(folder: Path, text: str, name: str = "t.csv") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_problems_are_reported_together() -> None:
    items = ["colour=title", "product title=nmae", "x", "product title=:a", "product title=:b"]
    with pytest.raises(UsageError) as caught:
        mapping.parse(items, find("AVE"), ["title"])
    for part in (
        "'colour'", "'nmae'", "'x'", "mapped twice", "'target attributes' is not mapped",
    ):  # fmt: skip
        assert part in str(caught.value)


def test_items_are_the_inverse_of_parse() -> None:
    items = ["product title=name", "target attributes=:Brand = Color"]
    assert mapping.parse(items, find("AVE"), ["name"]).items() == items


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        ('["a", " b  c "]', ["a", "b c"]),
        ("a | b|", ["a", "b"]),
        ("a\n\nb, c\n", ["a", "b, c"]),
        ("[not json", ["[not json"]),
        ("", []),
    ],
)
def test_cells_with_several_texts(cell: str, expected: list[str]) -> None:
    assert mapping.split_list(cell) == expected


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (
            "sample",
            {
                "product title": "title", "product description": "description",
                "product feature": "bullet_points", "product price": "price",
                "product brand": "brand",
            },
        ),
        (
            "google",
            {
                # The excerpt's manufacturers are all empty, so that column is left out.
                "product title": "name", "product description": "description",
                "product price": "price",
            },
        ),
    ],
)  # fmt: skip
def test_real_catalogs_are_guessed(
    source: str, expected: dict[str, str], request: pytest.FixtureRequest
) -> None:
    path = sample.catalog() if source == "sample" else request.getfixturevalue(source)
    found = guess(open_table(path), find("AVE"), ["target attributes"])
    assert found.mapping.columns == expected
    assert found.missing == ()


@pytest.mark.parametrize(
    ("header", "row", "task", "expected"),
    [
        ("Artikelnummer;Bezeichnung;Preis", "17;Rote Lampe mit Schirm;9,90", "AVE",
         {"product title": "Bezeichnung", "product price": "Preis"}),
        ("title_1,title_2,price_1,price_2", "a lamp,the lamp,1,2", "PM",
         {"product 1.title": "title_1", "product 2.title": "title_2",
          "product 1.price": "price_1", "product 2.price": "price_2"}),
        ("leftName,rightName", "a lamp,the lamp", "PRP",
         {"Product 1:": "leftName", "Product 2:": "rightName"}),
        ("id,stars,reviewText", "1,5,It is a lamp and I do love it very much.", "SA",
         {"review": "reviewText"}),
        ("sku,stuff", "X-1,A lamp that is red", "AVE", {"product title": "stuff"}),
        ("price,title", "cheap,9.99", "AVE", {"product title": "title"}),
    ],
)  # fmt: skip
def test_names_and_values_decide(
    tmp_path: Path, header: str, row: str, task: str, expected: dict[str, str]
) -> None:
    found = guess(open_table(table(tmp_path, f"{header}\n{row}\n")), find(task))
    assert found.mapping.columns == expected


def test_what_no_column_fits_is_named(tmp_path: Path) -> None:
    found = guess(open_table(table(tmp_path, "id,price\n1,2.5\n")), find("PSI"))
    assert found.missing == ("query", "product")


def test_labels_come_from_text_file_or_column(tmp_path: Path) -> None:
    content = open_table(table(tmp_path, "name,kind\na,Shoes\nb,\nc, Hats \nd,Shoes\n"))
    assert lists.labels("Shoes, Hats,Shoes", content) == ["Shoes", "Hats"]
    assert lists.labels("column=kind", content) == ["Hats", "Shoes"]
    path = table(tmp_path, "Shoes, boots\nHats\n\n", "labels.txt")
    assert lists.labels(str(path), content) == ["Shoes, boots", "Hats"]
    with pytest.raises(UsageError, match="no column 'knd'"):
        lists.labels("column=knd", content)
    with pytest.raises(UsageError, match="nothing to choose from"):
        lists.labels("Shoes", content)
    with pytest.raises(DataError, match="no such file"):
        lists.labels(str(tmp_path / "none.txt"), content)


def test_attributes_must_be_told_apart(tmp_path: Path) -> None:
    path = table(tmp_path, "Brand\nPack size\n", "attributes.txt")
    assert lists.attributes(str(path)) == ["Brand", "Pack size"]
    with pytest.raises(UsageError, match="two attributes"):
        lists.attributes("Salt and pepper,Brand")


@pytest.mark.parametrize("task", ["SA", "PRP", "MPC"])
def test_options_are_those_of_the_published_rows(task: str) -> None:
    row = rows.load(sample.folder() / "test.jsonl", tasks=["SA"])[0] if task == "SA" else None
    if row is None:
        path = sample.folder() / "train.jsonl"
        found = [r for r in rows.load(path) if r.task == find(task).name]
        if not found:
            # MPC is not in the sample; its options are letters over four sentences.
            assert len(find(task).kind.default_options) == 4
            return
        row = found[0]
    names = ["a", "b"]
    items = [f"{field}=a" for field in find(task).required]
    product = build(names, task=task, mapping=items).reader(names)(["x", "y"])
    assert product.row is not None
    assert product.row.option_list == row.option_list


def test_a_row_becomes_what_the_published_rows_are() -> None:
    names = ["name", "text"]
    question = build(
        names, task="AVE", mapping=["product title=name"], attributes=["Brand", "Color"]
    )
    product = question.reader(names)(["Red\n  lamp", "unused"])
    assert product.row is not None
    assert json.loads(product.row.input) == {
        "product title": "Red lamp",
        "target attributes": "Brand and Color",
    }
    # What is not mapped changes nothing, what is changes the key.
    assert question.reader(names)(["Red lamp", "other"]).key == product.key
    assert question.reader(names)(["Blue lamp", "unused"]).key != product.key
    empty = question.reader(names)(["", "x"])
    assert empty.row is None
    assert "product title" in empty.error
    assert Question.from_dict(json.loads(json.dumps(question.to_dict()))) == question


def test_own_labels_need_no_task() -> None:
    names = ["name"]
    question = build(
        names, task=None, mapping=["title=name"], labels=["Shoes, boots", "Hats"], name="kind"
    )
    product = question.reader(names)(["Red boots " * 300])
    assert product.row is not None
    assert product.row.option_list == ["Shoes, boots", "Hats"]
    assert len(json.loads(product.row.input)["title"].split()) == question.max_words


def test_each_row_may_bring_its_own_options() -> None:
    names = ["past", "next"]
    question = build(names, task="SR", mapping=["history=past", "options=next"])
    product = question.reader(names)(["cup | plate", "fork | knife"])
    assert product.row is not None
    assert product.row.option_list == ["A: fork", "B: knife"]
    assert product.row.input == "['1st: cup', '2nd: plate']"
    assert "no two options" in question.reader(names)(["cup", "fork"]).error


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"task": None}, "nothing to ask"),
        ({"task": "PM", "labels": ["a", "b"]}, "does not go with"),
        ({"task": "SR", "mapping": ["history=a"]}, "needs options"),
        ({"task": "SA", "mapping": ["review=a"], "attributes": ["x"]}, "--attributes is for"),
    ],
)
def test_contradictions_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        build(["a"], **{"mapping": [], **options})  # type: ignore[arg-type]


def test_every_task_can_be_asked_of_a_table() -> None:
    for task in TASKS.values():
        names = [*task.required, *task.either[:1], *(["options"] if task.needs_options else [])]
        items = [f"{field}={field}" for field in names]
        cells = ["one | two"] * len(names)
        assert build(names, task=task.name, mapping=items).reader(names)(cells).row, task.name


def test_a_saved_question_is_read_back(tmp_path: Path) -> None:
    path = tmp_path / "q.toml"
    kept = saved.SavedQuestion(
        task="AVE", instruction='say "it"\n', attributes=["Größe 😀"], max_words=50,
        map={"product title": "na=me", "x": ":fixed \\ text"},
    )  # fmt: skip
    saved.save(path, kept)
    assert saved.load(path) == kept
    assert kept.items == ["product title=na=me", "x=:fixed \\ text"]
    path.write_text('tsak = "AVE"\nlabels = 3\n')
    with pytest.raises(DataError, match=r"'tsak' is unknown; 'labels' is of the wrong type"):
        saved.load(path)
    path.write_text("task = ")
    with pytest.raises(DataError, match="cannot be read"):
        saved.load(path)
