"""Own tables as rows: every kind of answer, splits without leaks, and what is refused."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from ecellm_mlx.data import rows
from ecellm_mlx.data.importing import Import, run
from ecellm_mlx.data.rows import Row
from ecellm_mlx.errors import DataError, UsageError

pytestmark = pytest.mark.unit


def table(path: Path, header: list[str], lines: list[list[str]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(header)
        writer.writerows(lines)
    return path


def imported(tmp_path: Path, path: Path, task: str, *mapping: str, **options: Any) -> list[Row]:
    """All rows that come out, whichever file they are in."""
    options = {"val": 0.0, "test": 0.0} | options
    out = tmp_path / f"out-{path.stem}"
    run(path, Import(task, mapping, **options), out)
    return [row for file in sorted(out.iterdir()) for row in rows.load(file)]


def test_yes_and_no_however_they_are_written(tmp_path: Path) -> None:
    words = ["yes", "No", "TRUE", "0", " y "]
    path = table(
        tmp_path / "ap.csv",
        ["q", "doc", "ok"],
        [["Big?", f"It is {n}.", w] for n, w in enumerate(words)],
    )
    found = imported(tmp_path, path, "AP", "question=q", "document=doc", "output=ok")
    assert [row.output for row in found] == ["yes", "no", "yes", "no", "yes"]
    assert found[0].id == "ap:1"
    assert json.loads(found[0].input)["document"] == ["It is 0."]


def test_choices_by_letter_text_or_both(tmp_path: Path) -> None:
    moods = ["A", "very negative", "B: positive", "Neutral"]
    path = table(
        tmp_path / "sa.csv", ["text", "mood"], [[f"review {n}", m] for n, m in enumerate(moods)]
    )
    found = imported(tmp_path, path, "SA", "review=text", "output=mood")
    assert [row.output for row in found] == [
        "A: very positive", "E: very negative", "B: positive", "C: neutral",
    ]  # fmt: skip
    path = table(tmp_path / "own.csv", ["text", "mood"], [["good", "Love"], ["bad", "a"]])
    own = imported(tmp_path, path, "SA", "review=text", "output=mood", labels=("hate", "love"))
    assert [row.output for row in own] == ["B: love", "A: hate"]


def test_recommendations_take_options_from_the_table(tmp_path: Path) -> None:
    path = table(
        tmp_path / "sr.csv", ["bought", "offer", "next"],
        [["cup | pot", '["jug", "pan"]', "pan"], ["tea", "jug | lid", "A"]],
    )  # fmt: skip
    found = imported(tmp_path, path, "SR", "history=bought", "options=offer", "output=next")
    assert [row.output for row in found] == ["B", "A"]
    assert found[0].option_list == ["A: jug", "B: pan"]


def test_rankings_follow_from_judgments(tmp_path: Path) -> None:
    path = table(
        tmp_path / "qpr.csv", ["q", "items", "judged"],
        [["mug", "cup | mug | pot", "S | E | I"], ["tea", "a | b", "IE"],
         ["jug", "a|b", "E, S"]],
    )  # fmt: skip
    found = imported(tmp_path, path, "QPR", "query=q", "product list=items", "labels=judged")
    assert [row.output for row in found] == ["B,A,C", "B,A", "A,B"]
    assert found[0].labels == ["S", "E", "I"]


def test_extraction_from_columns(tmp_path: Path) -> None:
    path = table(
        tmp_path / "ave.csv", ["name", "about", "brand", "colour"],
        [["Acme mug", "a  red\nmug", "Acme", "red"], ["Plain cup", "", "", ""]],
    )  # fmt: skip
    found = imported(
        tmp_path, path, "AVE", "product title=name", "product description=about",
        "answer.Brand=brand", "answer.Color=colour",
    )  # fmt: skip
    assert json.loads(found[0].input)["target attributes"] == "Brand and Color"
    assert json.loads(found[0].output) == [
        {"attribute": "brand", "value": "Acme", "source": "product title"},
        {"attribute": "color", "value": "red", "source": "product description"},
    ]
    assert {item["value"] for item in json.loads(found[1].output)} == {"None"}
    lie = table(tmp_path / "lie.csv", ["name", "brand"], [["Acme mug", "Other"]])
    with pytest.raises(DataError, match="the value of Brand is in none of the mapped fields"):
        imported(tmp_path, lie, "AVE", "product title=name", "answer.Brand=brand")


def test_text_and_what_is_carried_along(tmp_path: Path) -> None:
    path = table(
        tmp_path / "ag.csv", ["key", "kind", "q", "doc", "a"],
        [["k1", "mugs", "How big?", "2 l", "Two litres.\nAbout."],
         ["k2", "", "Blue?", "red", "No."]],
    )  # fmt: skip
    found = imported(
        tmp_path, path, "AG", "question=q", "document=doc", "output=a", "id=key",
        "category=kind", setting="IND_shop",
    )  # fmt: skip
    assert [row.id for row in found] == ["k1", "k2"]
    assert found[0].output == "Two litres.\nAbout."
    assert {row.setting for row in found} == {"IND_shop"}
    written = (tmp_path / "out-ag" / "train.jsonl").read_text().splitlines()
    assert json.loads(written[0])["category"] == "mugs"
    assert "category" not in json.loads(written[1])


def test_no_input_is_in_two_files(tmp_path: Path) -> None:
    lines = [[f"review {n % 150}", "AB"[n % 2]] for n in range(300)]
    path = table(tmp_path / "many.csv", ["text", "mood"], lines)
    out = tmp_path / "out"
    wanted = Import("SA", ["review=text", "output=mood"], val=0.2, test=0.2)
    done = run(path, wanted, out)
    assert sum(done.rows.values()) == 300
    assert all(30 < done.rows[name] < 90 for name in ("val", "test"))
    inputs = [
        {row.input for row in rows.load(out / f"{name}.jsonl")}
        for name in ("train", "val", "test")
    ]
    assert not inputs[0] & inputs[1]
    assert not inputs[1] & inputs[2]
    assert not inputs[0] & inputs[2]
    assert {row.split for row in rows.load(out / "val.jsonl")} == {"val"}
    # An input stays where it was when the table grows.
    longer = table(tmp_path / "longer.csv", ["text", "mood"], [["new", "A"], *lines])
    run(longer, wanted, tmp_path / "again")
    assert {row.input for row in rows.load(tmp_path / "again" / "test.jsonl")} - {
        "new"
    } == inputs[2]


def test_bad_rows_are_named_or_left_out(tmp_path: Path) -> None:
    path = table(
        tmp_path / "bad.csv", ["text", "mood"],
        [["fine", "A"], ["what", "Z"], ["", "A"], ["good", "B"], ["odd", ""]],
    )  # fmt: skip
    wanted = Import("SA", ["review=text", "output=mood"], val=0, test=0)
    with pytest.raises(DataError, match=r"bad\.csv:3: .*'Z'.*and 2 more rows.*--skip-bad"):
        run(path, wanted, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    done = run(path, wanted, tmp_path / "out", skip=True)
    assert done.rows == {"train": 2, "val": 0, "test": 0}
    assert [finding.line for finding in done.left_out] == [3, 4, 6]


def test_contradictions(tmp_path: Path) -> None:
    path = table(tmp_path / "t.csv", ["a", "b"], [["x", "A"]])

    def message(task: str, *mapping: str, **options: Any) -> str:
        with pytest.raises(UsageError) as error:
            run(path, Import(task, mapping, **options), tmp_path / "out")
        return str(error.value)

    assert "names no answer: expected output=COLUMN" in message("SA", "review=a")
    assert "has no column 'z'" in message("SA", "review=a", "output=z")
    assert "'review' is not mapped" in message("SA", "output=b")
    assert "is for Query_Product_Ranking" in message("SA", "review=a", "labels=b")
    assert "is for Attribute_Value" in message("SA", "review=a", "answer.X=b")
    assert "both name the answer" in message("AVE", "product title=a", "answer.X=b", "output=b")
    assert "leave nothing to train on" in message(
        "SA", "review=a", "output=b", val=0.5, test=0.5
    )


def test_the_command_and_what_follows(ecellm: Any, refused: Any, tmp_path: Path) -> None:
    lines = [[f"I {w} it, number {n}", w] for n in range(20) for w in ("love", "hate")]
    path = table(tmp_path / "shop.csv", ["text", "mood"], lines)
    common = ["data", "import", path, "--task", "SA", "--map", "review=text", "--label", "love",
              "--label", "hate"]  # fmt: skip
    done = ecellm(*common, "--map", "output=mood", "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert sum(result["rows"].values()) == 40
    check = ecellm("data", "check", Path(result["path"]) / "train.jsonl")
    assert check.returncode == 0, check.stderr
    assert "is not empty" in refused(*common, "--map", "output=mood")
    assert "names no answer" in refused(*common, status=2)
