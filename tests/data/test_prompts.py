"""Prompts byte for byte, and inputs of own data written as the published rows are."""

from __future__ import annotations

import json

import pytest

from ecellm_mlx.data import rows
from ecellm_mlx.data.prompts import Frame, frame_for, input_text, prompt, segments
from ecellm_mlx.errors import DataError
from ecellm_mlx.sample import folder
from ecellm_mlx.tasks.registry import find

pytestmark = pytest.mark.unit

PREAMBLE = (
    "Below is an instruction that describes a task, paired with an input that provides "
    "further context. Write a response that appropriately completes the request."
)
ALPACA_WITH_OPTIONS = (
    PREAMBLE + "\n\n### Instruction:\nPick one.\n\n### Input:\nNice shirt.\n\n"
    '### Options:\n["A: good", "B: bad"]\n\n### Response:\n'
)
ALPACA_WITHOUT = (
    PREAMBLE + "\n\n### Instruction:\nPick one.\n\n### Input:\nNice shirt.\n\n### Response:\n"
)
MISTRAL_WITH_OPTIONS = (
    "[INST] "
    + PREAMBLE
    + "\n\n### Instruction:\nPick one.\n\n### Input:\nNice shirt.\n\n"
    + '### Options:\n["A: good", "B: bad"]\n\n [/INST] ### Response:\n'
)
MISTRAL_WITHOUT = (
    "[INST] "
    + PREAMBLE
    + "\n\n### Instruction:\nPick one.\n\n### Input:\nNice shirt.\n\n [/INST] ### Response:\n"
)


@pytest.mark.parametrize(
    ("frame", "options", "expected"),
    [
        (Frame.ALPACA, '["A: good", "B: bad"]', ALPACA_WITH_OPTIONS),
        (Frame.ALPACA, None, ALPACA_WITHOUT),
        (Frame.ALPACA, "", ALPACA_WITHOUT),
        (Frame.MISTRAL, '["A: good", "B: bad"]', MISTRAL_WITH_OPTIONS),
        (Frame.MISTRAL, None, MISTRAL_WITHOUT),
    ],
)
def test_frames_to_the_byte(frame, options, expected):
    assert frame.render("Pick one.", "Nice shirt.", options) == expected


def test_a_real_row_to_the_byte():
    loaded = rows.load(folder() / "test.jsonl", tasks=["SA"])
    row = next(row for row in loaded if row.id == "Sentiment_Analysis/ood-test/0119")
    assert prompt(row, Frame.MISTRAL) == (
        "[INST] " + PREAMBLE + "\n\n"
        "### Instruction:\n"
        "Sort this review into one of the sentiment classes on the list and write that class."
        "\n\n"
        "### Input:\n"
        "This is a great fit and super cute, price not bad either!!\n\n"
        "### Options:\n"
        '["A: very positive", "B: positive", "C: neutral", "D: negative", "E: very negative"]'
        "\n\n [/INST] ### Response:\n"
    )
    assert prompt(row, Frame.ALPACA) == (
        prompt(row, Frame.MISTRAL).removeprefix("[INST] ").replace(" [/INST] ", "")
    )


@pytest.mark.parametrize("frame", list(Frame))
def test_segments_join_to_the_prompt(frame):
    for row in rows.load(folder() / "val.jsonl"):
        head, text, tail = segments(row, frame)
        assert text == row.input
        assert head + text + tail == prompt(row, frame)


def test_braces_in_rows_are_plain_text():
    assert "{input}" in Frame.ALPACA.render("{input}", "{options}", None)


@pytest.mark.parametrize(
    ("model_type", "frame"),
    [("mistral", Frame.MISTRAL), ("llama", Frame.ALPACA), ("phi", Frame.ALPACA)],
)
def test_the_frame_follows_the_model_type(model_type, frame):
    assert frame_for(model_type, "{{ bos_token }}[INST] … [/INST]") is frame


@pytest.mark.parametrize("short", ["AVE", "PSI", "PRP", "QPR"])
def test_inputs_built_from_fields_equal_the_published_ones(short):
    task = find(short)
    for row in rows.load(folder() / "train.jsonl", tasks=[short]):
        values = json.loads(row.input)
        if short == "QPR":
            values["product list"] = [item[3:] for item in values["product list"]]
        assert input_text(task, values) == row.input


def test_matching_inputs_built_from_fields_equal_the_published_ones():
    with_nan = 0
    for row in rows.load(folder() / "train.jsonl", tasks=["PM"]):
        values = {}
        for product, parts in json.loads(row.input).items():
            for part, value in parts.items():
                missing = value in ("nan", "") or value != value
                values[f"{product}.{part}"] = None if missing else value
        assert input_text(find("PM"), values) == row.input
        with_nan += ": NaN" in row.input
    assert with_nan > 0


def test_long_descriptions_are_cut_at_fifty_words():
    values = {
        "product 1.title": "a",
        "product 2.title": "b",
        "product 1.description": " ".join(f"w{n}" for n in range(60)),
    }
    product = json.loads(input_text(find("PM"), values))["product 1"]
    assert product["description"].split(" ")[-1] == "w49..."


def test_purchases_are_numbered_as_published():
    text = input_text(find("SR"), {"history": [f"item {n}" for n in range(1, 23)]})
    assert text.startswith("['1st: item 1', '2nd: item 2', '3rd: item 3', '4th: item 4'")
    assert "'11th: item 11', '12th: item 12', '13th: item 13'" in text
    assert text.endswith("'21st: item 21', '22nd: item 22']")


def test_several_attributes_and_a_single_passage():
    ave = input_text(
        find("AVE"), {"product title": "x", "target attributes": ["Size", "Color"]}
    )
    assert json.loads(ave)["target attributes"] == "Size and Color"
    ag = input_text(find("AG"), {"question": "Is it?", "document": "It is."})
    assert json.loads(ag) == {"question": "Is it?", "document": ["It is."]}
    assert input_text(find("SA"), {"review": "Nice."}) == "Nice."


def test_wrong_fields_are_named():
    with pytest.raises(DataError, match="lacks target attributes"):
        input_text(find("AVE"), {"product title": "x", "target attributes": ""})
    with pytest.raises(DataError, match=r"no field 'name'.*query, product"):
        input_text(find("PSI"), {"name": "x"})
    with pytest.raises(DataError, match="got 27"):
        input_text(find("QPR"), {"query": "q", "product list": ["p"] * 27})
