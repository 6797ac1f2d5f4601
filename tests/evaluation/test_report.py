"""Reports: whole in themselves, true to the figures, and safe from what rows hold."""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from ecellm_mlx import sample
from ecellm_mlx.data import rows
from ecellm_mlx.data.rows import Row
from ecellm_mlx.errors import DataError
from ecellm_mlx.evaluation import plots, published, report
from ecellm_mlx.evaluation.details import details
from ecellm_mlx.evaluation.documents import (
    Heading,
    Paragraph,
    Table,
    Verbatim,
    to_html,
    to_markdown,
)
from ecellm_mlx.evaluation.metrics import score_by_task
from ecellm_mlx.evaluation.systems import System

pytestmark = pytest.mark.unit

EVIL = "<script>alert(1)</script> `|` ``` [x](http://evil) \x1b[31m \ud800 & \"'"


def write_rows(path: Path, members: list[Row]) -> None:
    path.write_text("".join(json.dumps(asdict(row)) + "\n" for row in members))


def finished_run(
    folder: Path, data: Path, answers: dict[str, str], decoding: str = "valid", **values: Any
) -> Path:
    """A run as the evaluation job leaves it."""
    folder.mkdir()
    found = [row for row in rows.load(data) if row.id in answers]
    (folder / "predictions.jsonl").write_text(
        "".join(
            json.dumps({"id": row.id, "prediction": answers[row.id], "probability": 0.5}) + "\n"
            for row in found
        )
    )
    metrics = {
        "model": "base",
        "adapter": None,
        "endpoint": None,
        "data": str(data),
        "n": len(found),
        "subset": False,
        "decodings": {decoding: score_by_task(found, answers)},
        "details": {decoding: details(found, answers)},
        "tokens_per_second": 12.0,
        "peak_memory_gb": 1.25,
    }
    (folder / "metrics.json").write_text(json.dumps(metrics | values))
    return folder


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Real rows; some hold what a page must not take for markup."""
    path = tmp_path / "test.jsonl"
    items = [
        json.loads(line)
        for line in (sample.folder() / "test.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    for item in items:
        if item["task"] == "Sentiment_Analysis":
            item["input"] = EVIL.replace("\ud800", "") + item["input"]
    path.write_text("".join(json.dumps(item) + "\n" for item in items), encoding="utf-8")
    return path


def right(data: Path) -> dict[str, str]:
    return {row.id: row.output for row in rows.load(data)}


def wrong(data: Path) -> dict[str, str]:
    return {row.id: "no" if row.task == "Product_Matching" else EVIL for row in rows.load(data)}


class Page(HTMLParser):
    """Collects the elements of a page and checks that they are closed."""

    VOID = ("meta",)

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_base_and_adapter_side_by_side(data: Path, tmp_path: Path) -> None:
    base = finished_run(tmp_path / "base", data, wrong(data))
    tuned = finished_run(tmp_path / "tuned", data, right(data), adapter="/runs/mine/adapter")
    html, markdown = report.write(tmp_path / "out", [base, tuned])
    text = markdown.read_text(encoding="utf-8")
    lines = text.splitlines()
    place = next(n for n, x in enumerate(lines) if x.startswith("| Product matching | IND"))
    first, second = (
        [cell.strip() for cell in line.strip("|").split("|")] for line in lines[place:][:2]
    )
    assert first[3:5] == ["F1", r"base (valid)"]
    assert first[5].startswith("0.000")
    assert second[:5] == ["", "", "", "", "base + mine (valid)"]
    assert second[5].startswith("1.000")
    assert first[-1] == "0.991 / 0.995 / 0.995", "eCeLLM-S, -M and -L, as published"
    assert published.SOURCE.split(",")[0] in text
    difference = next(
        line for line in text.splitlines() if "→" in line and "Product matching" in line
    )
    assert "0.000 → 1.000" in difference
    assert "none of" in text, "why the official F1 of sentiment is missing"
    # A report of the base alone has nothing to compare, and shows its worst rows.
    html, markdown = report.write(tmp_path / "alone", [base])
    alone = markdown.read_text(encoding="utf-8")
    assert "Differences" not in alone
    assert "Worst answers of base" in alone
    assert html.stat().st_size < 1_000_000


def test_the_page_is_whole_and_runs_nothing(data: Path, tmp_path: Path) -> None:
    run = finished_run(tmp_path / "base", data, wrong(data))
    html, _ = report.write(tmp_path / "out", [run])
    text = html.read_text(encoding="utf-8")
    page = Page()
    page.feed(text)
    assert page.open == []
    tags = {tag for tag, _ in page.seen}
    assert not tags & {"script", "img", "link", "iframe", "a", "object", "form"}
    for _, attributes in page.seen:
        assert not any(name.startswith("on") or name in ("href", "src") for name in attributes)
    policy = next(a["content"] for t, a in page.seen if a.get("http-equiv"))
    assert policy == "default-src 'none'; style-src 'unsafe-inline'"
    assert "&lt;script&gt;alert(1)" in text
    assert "\x1b" not in text
    for svg in re.findall(r"<svg.*?</svg>", text, re.DOTALL):
        ElementTree.fromstring(svg)


def test_subsets_are_flagged(data: Path, tmp_path: Path) -> None:
    answers = dict(list(right(data).items())[:50])
    run = finished_run(tmp_path / "base", data, answers, subset=True)
    html, markdown = report.write(tmp_path / "out", [run])
    for file in (html, markdown):
        assert "not comparable" in file.read_text(encoding="utf-8")


def test_bertscore_is_compared_and_its_model_named(tmp_path: Path) -> None:
    data = tmp_path / "test.jsonl"
    members = [
        Row(str(n), "i", "x", None, f"it holds {n} litres", "Answer_Generation", "IND", "test")
        for n in range(12)
    ]
    write_rows(data, members)
    about = {"model": "/models/small", "layer": 2, "as_published": False}

    def lengths(answers: list[str], references: list[str]) -> np.ndarray:
        return np.array([[1 / (1 + len(a))] * 3 for a in answers])

    runs = []
    for name, text in (("base", "it may hold something"), ("tuned", "yes")):
        answers = {row.id: f"{text} {row.id}" for row in members}
        runs.append(
            finished_run(
                tmp_path / name, data, answers, bertscore=about,
                decodings={"valid": score_by_task(members, answers, text_scorer=lengths)},
                details={"valid": details(members, answers, text_scorer=lengths)},
            )
        )  # fmt: skip
    _, markdown = report.write(tmp_path / "out", runs)
    text = markdown.read_text(encoding="utf-8")
    difference = next(
        line for line in text.splitlines() if "→" in line and "Answers to questions" in line
    )
    assert "+0.1" in difference
    assert "BERTScore of /models/small, layer 2" in text
    assert "do not compare with these" in text
    assert "BLEURT is not computed" in text
    # Of two models nothing is compared.
    metrics = json.loads((runs[0] / "metrics.json").read_text())
    metrics["bertscore"] = {**about, "layer": 3}
    (runs[0] / "metrics.json").write_text(json.dumps(metrics))
    _, markdown = report.write(tmp_path / "out", runs)
    text = markdown.read_text(encoding="utf-8")
    difference = next(
        line for line in text.splitlines() if "→" in line and "Answers to questions" in line
    )
    assert "not computed" in difference


def test_runs_of_other_rows_are_refused(data: Path, tmp_path: Path) -> None:
    base = finished_run(tmp_path / "base", data, right(data))
    other = finished_run(tmp_path / "other", data, right(data))
    (other / "predictions.jsonl").write_text('{"id": "elsewhere/1", "prediction": "yes"}\n')
    with pytest.raises(DataError, match=r"other rows than base \(valid\).*elsewhere/1"):
        report.write(tmp_path / "out", [base, other])
    (other / "metrics.json").unlink()
    with pytest.raises(DataError, match="is no finished evaluation"):
        report.write(tmp_path / "out", [base, other])


def test_markdown_cannot_be_broken_by_text() -> None:
    text = to_markdown(
        [
            Heading("a_b"),
            Table(["x|y"], [["1 | 2\n3", "<b>"]]),
            Verbatim("`label`", "```\n````\nend"),
            Paragraph("*no* _markup_ <i>"),
        ]
    )
    assert r"| 1 \| 2 3 | \<b\> |" in text
    assert "`````\n```\n````\nend\n`````" in text
    assert r"\*no\* \_markup\_ \<i\>" in text


def test_plots_escape_and_leave_out_what_is_missing() -> None:
    svg = plots.bars(
        ["<g>", "h"], ["a & b"], [[0.5], [None]], [[(0.4, 0.6)], [None]], title="<t>",
        x_title="F1 < 1",
    )  # fmt: skip
    tree = ElementTree.fromstring(svg)
    kind = "{http://www.w3.org/2000/svg}"
    widths = [float(e.attrib["width"]) for e in tree.iter(f"{kind}rect")]
    assert widths == [12.0, (plots.WIDTH - plots.LEFT - plots.RIGHT) / 2]
    assert {"<g>", "h", "a & b", "F1 < 1"} <= {e.text for e in tree.iter(f"{kind}text")}
    spans = [[(0.0, 0.2), None, (0.5, 2.0)]]
    line = plots.lines(
        ["1", "2", "3"], ["m"], [[0.1, None, 2.0]], spans, title="t", x_title="x"
    )
    tree = ElementTree.fromstring(line)
    assert len([e for e in tree.iter(f"{kind}line") if e.attrib["class"] == "line c0"]) == 2
    points = tree.find(f"{kind}polyline")
    assert points is not None
    assert len(points.attrib["points"].split()) == 2


def test_published_figures() -> None:
    assert published.headline("SR", "IND_Diverse_Instruction")["eCeLLM-L"] == 0.526
    assert published.headline("PM", "OOD_Diverse_Instruction") == {}
    assert published.headline("SR", "IND_Unseen_Instruction") == {}
    assert to_html([Heading("t", 1)]).startswith("<!doctype html>")


def test_the_command(ecellm: Any, refused: Any, data: Path, tmp_path: Path) -> None:
    base = finished_run(tmp_path / "base", data, wrong(data))
    (base / "job.json").write_text("{}")
    done = ecellm("report", base, "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [
        str(tmp_path / "out" / f"report.{s}") for s in ("html", "md")
    ]
    assert "nowhere" in refused("report", "nowhere", "--out", tmp_path / "out")


def test_a_row_is_shown_with_all_that_it_has(tmp_path: Path) -> None:
    row = Row("1", "i", "long " * 1000, '["A: x"]', "A", "Sequential_Recommendation", "s", "t")
    system = System("m", tmp_path, {}, "valid", {"1": "B"}, {"1": 0.25})
    blocks = list(report._answer(row, system))
    texts = [b.text for b in blocks if isinstance(b, Verbatim)]
    assert texts[1:] == ['["A: x"]', "A", "B"]
    assert len(texts[0]) < 1600
