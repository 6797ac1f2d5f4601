"""`ecellm generate` by the real command."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest


def test_one_answer_of_each_kind(ecellm: Any, tiny: Path, smollm2: Path) -> None:
    choice = ecellm(
        "generate", "--model", tiny, "--task", "SA", "--input", "Broke in a day.",
        "--options", '["A: very positive", "B: very negative"]', "--json",
    )  # fmt: skip
    assert choice.returncode == 0, choice.stderr
    answer = json.loads(choice.stdout)
    assert set(answer["options"]) == {"A: very positive", "B: very negative"}
    assert answer["prediction"] == max(answer["options"], key=answer["options"].get)
    fields = json.dumps({"product title": 'A "lamp" 🦋', "target attributes": "Brand"})
    listed = ecellm("generate", "--model", tiny, "--task", "AVE", "--input", fields)
    assert listed.returncode == 0, listed.stderr
    assert json.loads(listed.stdout)[0]["attribute"] == "brand"
    free = ecellm(
        "generate", "--model", smollm2, "--prompt", "What is the capital of France?", "--chat",
        "--max-tokens", "12",
    )  # fmt: skip
    assert free.returncode == 0, free.stderr
    assert "Paris" in free.stdout


def test_values_and_stop_texts_are_options(ecellm: Any, tiny: Path, smollm2: Path) -> None:
    fields = json.dumps({"product title": 'A "lamp" 🦋', "target attributes": "Brand"})
    listed = ecellm(
        "generate", "--model", tiny, "--task", "AVE", "--input", fields, "--values", "source"
    )
    assert listed.returncode == 0, listed.stderr
    for item in json.loads(listed.stdout):
        assert item["value"] == "None" or item["value"] in 'a "lamp" 🦋 A "lamp" 🦋'
    free = ecellm(
        "generate", "--model", smollm2, "--prompt", "What is the capital of France?", "--chat",
        "--max-tokens", "12", "--stop", "Par", "--stop", "\n",
    )  # fmt: skip
    assert free.returncode == 0, free.stderr
    assert free.stdout == "The capital of France is \n"


def test_a_shortened_input_is_told(ecellm: Any, tiny: Path) -> None:
    done = ecellm(
        "generate", "--model", tiny, "--task", "SA", "--input", "it glows " * 2000,
        "--options", '["A: good", "B: bad"]',
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "warning: row question: its prompt of" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        ((), 2, "either --prompt, or --task"),
        (("--prompt", "x", "--task", "PM"), 2, "either --prompt, or --task"),
        (("--prompt", "x", "--input", "{}"), 2, "belong to --task"),
        (("--task", "PM"), 2, "--task needs --input"),
        (("--task", "nonsense", "--input", "x"), 1, "no task 'nonsense'"),
        (("--task", "SA", "--input", "x"), 2, "--options is missing"),
        (("--task", "SA", "--input", "x", "--options", "[1"), 2, "cannot be read"),
        (("--task", "PSI", "--input", '{"query": "x"}'), 1, "lacks product"),
        (("--task", "AVE", "--input", "x", "--decoding", "best"), 2, "is unknown"),
        (("--task", "AVE", "--input", "no object"), 1, "no JSON object"),
        (
            ("--task", "AVE", "--input", "x", "--values", "words"),
            2,
            "--values words is unknown",
        ),
        (("--task", "PM", "--input", "{}", "--stop", "x"), 1, "lacks product 1.title"),
        (("--task", "AVE", "--input", "x", "--stop", "x"), 2, "--stop is for free answers"),
        (("--prompt", "x", "--stop", ""), 2, "a stop text is empty"),
    ],
)
def test_wrong_questions_are_told_in_one_sentence(
    ecellm: Any, tiny: Path, arguments: tuple[str, ...], status: int, said: str
) -> None:
    result = ecellm("generate", "--model", tiny, *arguments)
    assert result.returncode == status
    assert said in result.stderr
    assert "Traceback" not in result.stderr
    assert result.stdout == ""
