"""Reading rows: every line that is wrong is named, and nothing is passed over."""

from __future__ import annotations

import hashlib
import json
from collections import Counter

import pytest

from ecellm_mlx.data import rows
from ecellm_mlx.errors import DataError
from ecellm_mlx.sample import catalog, folder
from ecellm_mlx.tasks.registry import TASKS, find

pytestmark = pytest.mark.unit

GOOD = {
    "id": "r1",
    "instruction": "Yes or no?",
    "input": '{"query": "lamp", "product": "Desk lamp"}',
    "options": None,
    "output": "yes",
    "task": "Product_Substitute_Identification",
    "setting": "IND_Diverse_Instruction",
    "split": "test",
}
CHOICE = {
    "task": "Sentiment_Analysis",
    "options": '["A: good", "B: bad"]',
    "output": "A: good",
}
RANKING = {"task": "QPR", "output": "B,A", "labels": ["S", "E"]}


def write(path, *items, newline="\n"):
    lines = [item if isinstance(item, str) else json.dumps(item) for item in items]
    path.write_bytes((newline.join(lines) + newline).encode())
    return path


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_the_sample_loads_and_checks(split):
    path = folder() / f"{split}.jsonl"
    loaded = rows.load(path)
    report = rows.check(path)
    assert report.ok
    assert report.rows == len(loaded)
    assert report.warnings == []
    assert {row.split for row in loaded} == {split}
    assert {row.task for row in loaded} == {
        "Product_Matching",
        "Sentiment_Analysis",
        "Attribute_Value_Extraction",
        "Product_Relation_Predicition",
        "Product_Substitue_Identification",
        "Query_Product_Ranking",
    }


def test_the_sample_is_small_permissive_and_without_overlap():
    inputs, licences = {}, set()
    for split in ("train", "val", "test"):
        lines = (folder() / f"{split}.jsonl").read_text(encoding="utf-8").split("\n")[:-1]
        for line in lines:
            row = json.loads(line)
            licences.add(row["license"])
            assert inputs.setdefault((row["task"], row["input"]), split) == split
    assert licences == {"Apache-2.0", "CC-BY-4.0", "CC0-1.0"}
    assert sum(path.stat().st_size for path in folder().iterdir() if path.is_file()) < 1_000_000
    assert catalog().stat().st_size < 120_000


def test_the_bare_token_nan_stays_text():
    inputs = [row.input for row in rows.load(folder() / "train.jsonl", tasks=["PM"])]
    assert any('"description": NaN' in text for text in inputs)


def test_filters_take_any_spelling(tmp_path):
    loaded = rows.load(
        folder() / "test.jsonl",
        tasks=["sa", "Product_Relation_Prediction"],
        settings=["OOD_Diverse_Instruction"],
    )
    assert Counter(row.task for row in loaded) == {
        "Sentiment_Analysis": 12,
        "Product_Relation_Predicition": 12,
    }
    with pytest.raises(DataError, match="no row is of the tasks and settings asked for"):
        rows.load(folder() / "test.jsonl", tasks=["AG"])
    with pytest.raises(DataError, match="no task 'XY'"):
        rows.load(folder() / "test.jsonl", tasks=["XY"])


def test_optional_fields_have_defaults_and_unknown_ones_are_ignored(tmp_path):
    own = {key: GOOD[key] for key in ("instruction", "input", "output", "task")}
    path = write(tmp_path / "val.jsonl", own, {**own, "price": 3, "id": 7})
    first, second = rows.load(path)
    assert (first.id, second.id) == ("val:1", "7")
    assert (first.setting, first.split, first.options, first.labels) == (
        "own",
        "val",
        None,
        None,
    )
    assert first.task == "Product_Substitue_Identification"
    assert rows.load(path)[0].id == first.id


@pytest.mark.parametrize("name", ["a.json", "a.jsonl"])
def test_json_lines_under_both_endings_with_bom_and_windows_line_ends(tmp_path, name):
    path = write(tmp_path / name, GOOD, "", {**GOOD, "id": "r2"}, newline="\r\n")
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert [row.id for row in rows.load(path)] == ["r1", "r2"]


@pytest.mark.parametrize("indent", [None, 2])
def test_a_json_list(tmp_path, indent):
    items = [{**GOOD, "id": None, "input": "[,] \u2028"}, {**GOOD, "id": None}]
    path = tmp_path / "a.json"
    path.write_text(json.dumps(items, indent=indent, ensure_ascii=False), encoding="utf-8")
    assert [row.id for row in rows.load(path)] == ["a:1", "a:2"]
    path.write_text("[]")
    with pytest.raises(DataError, match="has no rows"):
        rows.load(path)


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("[\n%s,\n\n{oops}\n]", 4, "malformed JSON"),
        ("[\n%s\n%s]", 3, "malformed JSON list.*expected ',' or ']'"),
        ("[\n%s,\n]", 3, "malformed JSON"),
        ("[\n%s\n", 3, "malformed JSON list"),
        ("[\n%s]\n[]", 2, "text after its closing"),
        ("[\n%s,\n17]", 3, "not a JSON object"),
    ],
)
def test_errors_in_a_json_list_have_lines(tmp_path, text, line, words):
    path = tmp_path / "a.json"
    path.write_text(text.replace("%s", json.dumps(GOOD)))
    with pytest.raises(DataError, match=rf"a\.json:{line}: .*{words}"):
        rows.load(path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ('{"id": "r2", ', "malformed JSON: expected one JSON object per row, got .* at column"),
        ("[1, 2]", "not a JSON object: expected an object, got a list"),
        ("[" * 100_000, "nested too deeply"),
        ('{"id": ' + "1" * 5_000 + "}", "too many digits"),
        ({"instruction": ...}, "field 'instruction' is missing"),
        ({"instruction": "  "}, "field 'instruction' is empty"),
        ({"input": {"query": "x"}}, "'input' is of the wrong type.*got an object; write it as"),
        ({"output": 3}, "'output' is of the wrong type: expected text, got a number"),
        ({"output": None}, "'output' is of the wrong type: expected text, got null"),
        ({"setting": 3}, "'setting' is of the wrong type"),
        ({"task": "Pricing"}, "no task 'Pricing'.*Product_Matching"),
        ({"id": "r1"}, "id 'r1' is also on line 1"),
        ({"id": []}, "'id' is not usable: expected text, got a list"),
        ({"input": "cut \ud83d"}, r"half of a character: got \\ud83d"),
        ({"output": "Yes"}, "no answer: expected yes or no, got 'Yes'"),
        ({**CHOICE, "options": None}, "field 'options' is missing"),
        ({**CHOICE, "options": "A or B"}, "options cannot be read"),
        ({**CHOICE, "options": "[]"}, "options cannot be read: .*got no list with entries"),
        ({**CHOICE, "options": "['A', 3]"}, "options cannot be read: .*is empty or no text"),
        ({**CHOICE, "options": "__import__('os')"}, "options cannot be read"),
        ({**CHOICE, "output": "A"}, "none of the options: expected one of 'A: good', 'B: bad'"),
        ({**CHOICE, "task": "PRP", "output": "C"}, "none of the options: .*'A', 'B', got 'C'"),
        ({**RANKING, "output": "B;A"}, "output is no ranking.*got 'B;A'"),
        ({**RANKING, "output": "A,A"}, "output is no ranking"),
        ({**RANKING, "output": "A,C"}, "output is no ranking"),
        ({**RANKING, "labels": ["E"]}, "'labels' is of the wrong length: expected 2.*got 1"),
        ({**RANKING, "labels": ["E", "X"]}, "'labels' is of the wrong type: .*E, S, C and I"),
        ({**RANKING, "labels": "ES"}, "'labels' is of the wrong type"),
    ],
)
def test_what_is_wrong_with_a_row_is_said_with_its_line(tmp_path, change, words):
    bad = change
    if isinstance(change, dict):
        bad = {k: v for k, v in {**GOOD, "id": "r2", **change}.items() if v is not ...}
    path = write(tmp_path / "a.jsonl", GOOD, bad)
    with pytest.raises(DataError, match=rf"a\.jsonl:2: .*{words}"):
        rows.load(path)
    report = rows.check(path)
    assert [finding.line for finding in report.errors] == [2]
    assert (report.ok, report.rows) == (False, 1)


def test_the_first_error_is_raised_and_the_others_are_counted(tmp_path):
    bad = {**GOOD, "output": "maybe"}
    path = write(tmp_path / "a.jsonl", GOOD, bad, {**GOOD, "id": "r2"}, "oops", "oops")
    with pytest.raises(
        DataError, match=r"a\.jsonl:2: .*and 2 more rows have errors.*data check"
    ):
        rows.load(path)
    assert [finding.line for finding in rows.check(path).errors] == [2, 4, 5]
    path = write(tmp_path / "b.jsonl", bad, {**GOOD, "id": 1.5})
    with pytest.raises(DataError, match="1 more row has an error"):
        rows.load(path)


def test_a_file_that_is_not_utf8_names_the_byte(tmp_path):
    path = write(tmp_path / "a.jsonl", GOOD)
    text = json.dumps({**GOOD, "id": "r2", "input": "café"}, ensure_ascii=False)
    path.write_bytes(path.read_bytes() + text.encode("cp1252"))
    with pytest.raises(DataError, match=r"a\.jsonl:2: .*not UTF-8: got byte 0xE9.*iconv"):
        rows.load(path)
    path = tmp_path / "a.json"
    path.write_bytes(b"[\n\n" + text.encode("cp1252") + b"]")
    with pytest.raises(
        DataError, match=rf"a\.json:3: .*0xE9 at position {text.index('é') + 1}"
    ):
        rows.load(path)


def test_files_that_are_none(tmp_path):
    with pytest.raises(DataError, match=r"a\.jsonl: there is no such file"):
        rows.load(tmp_path / "a.jsonl")
    with pytest.raises(DataError, match="is a folder"):
        rows.load(tmp_path)
    with pytest.raises(DataError, match=r"got \.csv; turn a table into rows"):
        rows.load(catalog())
    with pytest.raises(DataError, match="has no rows"):
        rows.load(write(tmp_path / "empty.jsonl", ""))
    assert not rows.check(tmp_path / "empty.jsonl").ok


def test_options_are_json_or_a_python_list(tmp_path):
    options = "['A: SET OF 6.', \"B: CHILDREN'S UMBRELLA.\"]"
    item = {**GOOD, "task": "Sequential_Recommendation", "options": options, "output": "B"}
    (row,) = rows.load(write(tmp_path / "a.jsonl", item))
    assert row.option_list == ["A: SET OF 6.", "B: CHILDREN'S UMBRELLA."]
    assert find("SR").kind.options(row) == ["A", "B"]
    assert row.options == options


def test_a_report_counts_and_warns(tmp_path):
    unjudged = {key: value for key, value in RANKING.items() if key != "labels"}
    path = write(
        tmp_path / "test.jsonl",
        GOOD,
        {**GOOD, "id": "r2", "output": "no"},
        {**GOOD, "id": "r3", **unjudged},
        {**GOOD, "id": "r4", "task": "AVE", "output": "red"},
        {**GOOD, "id": "r5", "setting": "OOD_Diverse_Instruction"},
    )
    report = rows.check(path)
    assert report.ok
    assert [(finding.line, finding.what[:28]) for finding in report.warnings] == [
        (2, "the same question is on line"),
        (3, "1 ranking rows have no 'labe"),
        (4, "the output is no JSON list o"),
    ]
    assert "another output" in report.warnings[0].what
    assert report.duplicate_inputs == 1
    value = json.loads(json.dumps(report.to_json()))
    assert value["counts"]["Product_Substitue_Identification"] == {
        "IND_Diverse_Instruction": {"test": 2},
        "OOD_Diverse_Instruction": {"test": 1},
    }
    assert value["characters"]["p100"] == len("Yes or no?" + GOOD["input"] + "yes")
    assert value["ok"] is True


def test_a_dataset_folder(tmp_path):
    files = rows.dataset(folder())
    assert [path.name for path in (files.train, files.val, files.test)] == [
        "train.jsonl",
        "val.jsonl",
        "test.jsonl",
    ]
    with pytest.raises(DataError, match=r"no training rows: .*got an empty folder"):
        rows.dataset(tmp_path)
    write(tmp_path / "train.json", GOOD)
    write(tmp_path / "validation.json", GOOD)
    files = rows.dataset(tmp_path)
    assert (files.val.name, files.test) == ("validation.json", None)
    write(tmp_path / "val.jsonl", GOOD)
    with pytest.raises(DataError, match=r"more than one file for val: got val\.jsonl, valid"):
        rows.dataset(tmp_path)
    with pytest.raises(DataError, match=r"is a file.*give the folder"):
        rows.dataset(tmp_path / "train.json")
    with pytest.raises(DataError, match="no such folder"):
        rows.dataset(tmp_path / "nowhere")


def test_a_digest_is_of_contents_and_their_division(tmp_path):
    a, b = tmp_path / "a", tmp_path / "b"
    a.write_bytes(b"12")
    b.write_bytes(b"3")
    first = rows.digest([a, b])
    hashes = hashlib.sha256(b"12").digest() + hashlib.sha256(b"3").digest()
    assert first == hashlib.sha256(hashes).hexdigest()
    a.write_bytes(b"1")
    b.write_bytes(b"23")
    assert rows.digest([a, b]) != first
    with pytest.raises(DataError, match="no such file"):
        rows.digest([tmp_path / "c"])


def strata(chosen):
    return Counter((row.task, row.setting) for row in chosen)


@pytest.mark.parametrize("limit", [9, 40, 120, 287])
def test_a_subset_keeps_tasks_settings_and_the_mix_of_answers(limit):
    loaded = rows.load(folder() / "test.jsonl")
    chosen = rows.stratified(loaded, limit, seed=1)
    assert len(chosen) == limit == len({row.id for row in chosen})
    assert [row.id for row in loaded if row in chosen] == [row.id for row in chosen]
    assert set(strata(chosen)) == set(strata(loaded))
    for (task, setting), size in strata(chosen).items():
        if TASKS[task].closed:
            answers = Counter(
                r.output for r in chosen if (r.task, r.setting) == (task, setting)
            )
            kinds = {r.output for r in loaded if (r.task, r.setting) == (task, setting)}
            assert max(answers.values()) <= size / len(kinds) + 1


def test_a_subset_follows_from_its_seed():
    loaded = rows.load(folder() / "test.jsonl")
    assert rows.stratified(loaded, 50, 1) == rows.stratified(loaded, 50, 1)
    assert rows.stratified(loaded, 50, 1) != rows.stratified(loaded, 50, 2)
    assert rows.stratified(loaded, 10_000, 1) == loaded
    # Fewer rows than strata: one of each of the largest.
    assert max(strata(rows.stratified(loaded, 4, 1)).values()) == 1


def test_published_judgments_are_attached_by_position(tmp_path):
    loaded = rows.load(folder() / "test.jsonl", tasks=["QPR", "PM"])
    published = [row.labels for row in loaded if row.labels]
    bare = [rows.Row(**{**vars(row), "labels": None}) for row in loaded]
    path = tmp_path / "label.json"
    path.write_text(json.dumps(published))
    assert rows.attach_judgments(bare, path) == loaded
    path.write_text(json.dumps(published[1:]))
    with pytest.raises(DataError):
        rows.attach_judgments(bare, path)
    path.write_text(json.dumps([*published, ["E", "S"]]))
    with pytest.raises(DataError, match="25 entries for 24 ranking rows"):
        rows.attach_judgments(bare, path)
    path.write_text("{}")
    with pytest.raises(DataError, match="not a JSON list"):
        rows.attach_judgments(bare, path)
