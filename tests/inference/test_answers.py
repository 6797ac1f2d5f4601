"""Answers: valid whatever the model says, and the same in any company."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path

import pytest

from ecellm_mlx import sample
from ecellm_mlx.data import rows as rows_module
from ecellm_mlx.data.rows import Row
from ecellm_mlx.errors import DataError
from ecellm_mlx.inference.answers import Answer, Answerer
from ecellm_mlx.inference.protocol import Decoding
from ecellm_mlx.inference.rankings import Ranking
from ecellm_mlx.inference.stops import Stops
from ecellm_mlx.models import loading
from ecellm_mlx.models.loading import LoadedModel
from ecellm_mlx.tasks.registry import TASKS
from ecellm_mlx.tasks.values import Values
from tests.cases import proof


@pytest.fixture(scope="module")
def base(smollm2: Path) -> LoadedModel:
    return loading.load(smollm2)


@pytest.fixture(scope="module")
def tiny_base(tiny_models: dict[str, Path]) -> LoadedModel:
    return loading.load(tiny_models["llama"])


def sample_rows(per_task: int) -> list[Row]:
    chosen = []
    for task in ("PM", "SA", "AVE", "PRP", "QPR"):
        found = rows_module.load(
            sample.folder() / "test.jsonl", tasks=[task], settings=["IND_Diverse_Instruction"]
        )
        chosen += found[:per_task]
    return chosen


def by_row(answers: list[Answer]) -> dict[tuple[int, Decoding], Answer]:
    found = {(a.index, a.decoding): a for a in answers}
    assert len(found) == len(answers)
    return found


def question(product: str = "a lamp") -> Row:
    value = json.dumps({"question": "Does it glow?", "document": [product]})
    return Row("q", "Answer.", value, None, "", "Answer_Generation", "own", "test")


@pytest.mark.parametrize(
    ("name", "per_task", "path"),
    [
        ("tiny_base", 1, "auto"),
        ("tiny_base", 1, "plain"),
        proof("tiny_base", 3, "auto"),
        proof("tiny_base", 3, "plain"),
        proof("base", 1, "auto"),
    ],
)
def test_company_and_order_change_no_answer(
    name: str,
    per_task: int,
    path: str,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Batches of one and of 16, float32. Products of other shapes round differently, by
    some 1e-6 of a logit, so only answers that tie to that degree could differ."""
    base = request.getfixturevalue(name)
    monkeypatch.setenv("ECELLM_DEVICE", path)
    rows = sample_rows(per_task)
    both = (Decoding.VALID, Decoding.PAPER) if name == "tiny_base" else (Decoding.VALID,)
    together = by_row(list(Answerer(base, batch_size=16, seed=7).answer(rows, both)))
    alone = by_row(list(Answerer(base, batch_size=1, seed=7).answer(rows[::-1], both)))
    assert len(together) == len(both) * len(rows)
    for (index, decoding), answer in together.items():
        other = alone[len(rows) - 1 - index, decoding]
        assert answer.prediction == other.prediction
        assert other.options == pytest.approx(answer.options, abs=1e-4)
    again = by_row(list(Answerer(base, batch_size=16, seed=7).answer(rows, both)))
    assert again == together


@pytest.mark.usefixtures("each_path")
def test_closed_answers_have_a_probability_for_each_option(tiny_base: LoadedModel) -> None:
    rows = [r for r in sample_rows(2) if not TASKS[r.task].extracts]
    answers = list(Answerer(tiny_base).answer(rows))
    assert sorted(a.index for a in answers) == list(range(len(rows)))
    for answer in answers:
        values = list(answer.options.values())
        assert sum(values) == pytest.approx(1)
        assert values == sorted(values, reverse=True)
        if TASKS[rows[answer.index].task].ranked:
            assert sorted(answer.prediction.split(",")) == sorted(answer.options)
        else:
            assert answer.prediction == next(iter(answer.options))
            assert answer.probability == values[0]


@pytest.mark.parametrize("scoring", [proof("tree"), "mean"])
def test_rows_are_scored_against_any_closed_list(base: LoadedModel, scoring: str) -> None:
    from ecellm_mlx.inference.choices import Scoring

    labels = [
        ["Lighting", "Pet supplies", "Lighting accessories"],
        ["a", "b\nc", 'quo"te', "🦋"],
    ]
    rows = [question(), question("a shoe")]
    answers = sorted(
        Answerer(base, scoring=Scoring(scoring)).choose(rows, labels), key=lambda a: a.index
    )
    for answer, own in zip(answers, labels, strict=True):
        assert set(answer.options) == set(own)
        assert sum(answer.options.values()) == pytest.approx(1)
        assert answer.prediction in own
    for wrong in (["x", "x"], [], ["x", ""]):
        with pytest.raises(DataError, match="no set of different texts"):
            Answerer(base).choose(rows[:1], [wrong])


@pytest.mark.usefixtures("each_path")
def test_mean_scoring_equals_the_plain_models_log_probabilities(
    tiny_base: LoadedModel,
) -> None:
    import numpy as np

    from ecellm_mlx.data import prompts
    from ecellm_mlx.device.backend import mx
    from ecellm_mlx.inference.choices import Scoring

    labels, row = ["red", "deep blue sea", "green grass"], question()
    (answer,) = Answerer(tiny_base, scoring=Scoring.MEAN).choose([row], [labels])
    encode = tiny_base.tokenizer.encode
    prompt = encode(prompts.prompt(row, tiny_base.frame))
    means = []
    for label in labels:
        whole = encode(prompts.prompt(row, tiny_base.frame) + label)
        logits = tiny_base.model(mx.array(whole)[None])[0]
        values = np.array(logits - mx.logsumexp(logits, axis=-1, keepdims=True))
        own = [values[i - 1, whole[i]] for i in range(len(prompt), len(whole))]
        means.append(np.mean(own))
    weights = np.exp(means) / np.exp(means).sum()
    expected = dict(zip(labels, weights.tolist(), strict=True))
    assert answer.options == pytest.approx(expected, abs=1e-5)


@pytest.mark.usefixtures("each_path")
@pytest.mark.parametrize("ranking", list(Ranking))
def test_rankings_equal_a_search_over_all_orders(
    tiny_base: LoadedModel, ranking: Ranking
) -> None:
    """Against the probability of every order, token by token, by the plain model."""
    rows = [r for r in sample_rows(24) if TASKS[r.task].ranked]
    rows = sorted(rows, key=lambda r: -r.output.count(","))[:2] + rows[:2]
    rows = [replace(r, id=str(n)) for n, r in enumerate(rows)]
    for answer in Answerer(tiny_base, ranking=ranking).answer(rows):
        letters = sorted(rows[answer.index].output.split(","))
        orders = all_orders(tiny_base, rows[answer.index], letters)
        best = max(orders, key=lambda order: orders[order])
        if ranking is Ranking.EXHAUSTIVE:
            assert answer.prediction == best
            assert answer.probability == pytest.approx(orders[best], rel=1e-3)
        elif ranking is Ranking.GREEDY:
            assert answer.probability == pytest.approx(orders[answer.prediction], rel=1e-3)
            chosen = answer.prediction.split(",")
            for place in range(len(chosen)):
                mass = {
                    letter: sum(
                        p
                        for order, p in orders.items()
                        if order.split(",")[: place + 1] == [*chosen[:place], letter]
                    )
                    for letter in chosen[place:]
                }
                assert max(mass, key=lambda letter: mass[letter]) == chosen[place]
        first = {
            letter: sum(p for order, p in orders.items() if order.startswith(letter))
            for letter in letters
        }
        assert answer.options == pytest.approx(first, abs=1e-4)


def all_orders(base: LoadedModel, row: Row, letters: list[str]) -> dict[str, float]:
    import numpy as np

    from ecellm_mlx.data import prompts
    from ecellm_mlx.device.backend import mx

    encode, text = base.tokenizer.encode, prompts.prompt(row, base.frame)
    ids = {letter: encode(letter)[0] for letter in letters}
    found = {}
    for order in itertools.permutations(letters):
        value = 1.0
        for place in range(len(order) - 1):
            written = "".join(letter + "," for letter in order[:place])
            logits = np.array(base.model(mx.array(encode(text + written))[None])[0, -1])
            left = [ids[letter] for letter in order[place:]]
            weights = np.exp(logits[left] - logits[left].max())
            value *= float(weights[0] / weights.sum())
        found[",".join(order)] = value
    return found


def test_rows_come_as_they_finish(tiny_base: LoadedModel) -> None:
    """A closed row does not wait for the texts of its batch."""
    rows = [question(), *sample_rows(1)]
    answerer = Answerer(tiny_base, batch_size=16)
    order = [rows[a.index].task for a in answerer.answer(rows)]
    assert set(order[-2:]) == {"Answer_Generation", "Attribute_Value_Extraction"}
    assert sorted(order) == sorted(r.task for r in rows)
    seen: list[int] = []
    for answer in answerer.answer(rows, between=lambda: False):
        seen.append(answer.index)
    assert 0 < len(seen) < len(rows)


@pytest.mark.proof
def test_streamed_pieces_make_up_the_answer(base: LoadedModel) -> None:
    answerer = Answerer(base)
    for row in (*sample_rows(1), question()):
        (expected,) = answerer.answer([row])
        pieces = list(answerer.stream(row))
        assert "".join(piece.text for piece in pieces) == expected.prediction
        assert [piece.answer is not None for piece in pieces[:-1]] == [False] * (
            len(pieces) - 1
        )
        final = pieces[-1].answer
        assert final is not None
        assert final.prediction == expected.prediction
        assert final.options == pytest.approx(expected.options, abs=1e-5)
    pieces_of_text = list(answerer.stream_text("The capital of France is", max_tokens=8))
    assert len(pieces_of_text) > 4
    assert "Paris" in "".join(pieces_of_text)


def test_free_answers_end_before_the_next_block(tiny_base: LoadedModel) -> None:
    """By default before the next block of a prompt, else before the texts that are given."""
    (free,) = Answerer(tiny_base, stop=Stops(())).answer([question()])
    middle = free.prediction[len(free.prediction) // 2 :][:3]
    stop = Stops([middle])
    (cut,) = Answerer(tiny_base, stop=stop).answer([question()])
    assert cut.prediction == free.prediction.split(middle, 1)[0]
    pieces = list(Answerer(tiny_base, stop=stop).stream(question()))
    assert "".join(piece.text for piece in pieces) == cut.prediction
    # The paper's answers end where the model ends them.
    paper = (Decoding.PAPER,)
    plain = [a.prediction for a in Answerer(tiny_base).answer([question()], paper)]
    stopped = [a.prediction for a in Answerer(tiny_base, stop=stop).answer([question()], paper)]
    assert plain == stopped
    default = Answerer(tiny_base)._stops
    assert default.cut("It glows.\n### Instruction:\nNow") == "It glows."


def test_text_that_is_no_row_ends_before_a_stop_text(base: LoadedModel) -> None:
    answerer = Answerer(base)
    ask = {"prompt": "The capital of France is", "max_tokens": 24}
    whole = "".join(answerer.stream_text(**ask))
    assert " Paris." in whole
    pieces = list(answerer.stream_text(**ask, stop=Stops(["is.", "aris."])))
    assert "".join(pieces) == whole.split("aris.", 1)[0]


@pytest.mark.parametrize("values", list(Values))
@pytest.mark.parametrize(
    "title",
    [
        'Lamp "Glow" {3 pack} [new] \\ 12" tall',
        "Lampe 🦋💡 für's Büro — größe L",
        "line one\nline two\ttab\r\n\x0b end",
        "مصباح يدوي LED أسود",
        "\u202eright to left\u202c and \u200bzero width",
        "word " * 400,
        "Cafe\u0301 Z\u0351\u0346a\u0334lgo n\u0303 \U0001f469\u200d\U0001f680",
        "\\" * 9 + '"' + "\\u0041\\n",
        '"}, {"attribute": "color", "value": "x',
    ],
)
def test_extracted_lists_are_valid_for_hostile_titles(
    tiny_base: LoadedModel, title: str, values: Values
) -> None:
    value = json.dumps({"product title": title, "target attributes": "Brand and Pack size"})
    row = Row("a", "Extract.", value, None, "", "Attribute_Value_Extraction", "own", "test")
    (answer,) = Answerer(tiny_base, values=values).answer([row])
    items = json.loads(answer.prediction)
    assert list(dict.fromkeys(i["attribute"] for i in items)) == ["brand", "pack size"]
    for item in items:
        assert set(item) == {"attribute", "value", "source"}
        assert item["source"] in ("product title", "None")
        if values is Values.SOURCE:
            text = title if item["source"] == "product title" else "None"
            assert item["value"]
            assert item["value"] in text or item["value"] in text.lower()


def test_long_inputs_are_shortened_and_named(tiny_base: LoadedModel) -> None:
    warnings: list[str] = []
    long_row = question("glows " * 3000)
    rows = [replace(long_row, id="long"), replace(question(), id="short")]
    answers = list(Answerer(tiny_base, warn=warnings.append).answer(rows))
    assert len(answers) == 2
    assert len(warnings) == 1
    assert "row long" in warnings[0]
    cut = {rows[answer.index].id: answer.shortened for answer in answers}
    assert cut["short"] == 0
    assert f"shortened by {cut['long']} tokens" in warnings[0]
    with pytest.raises(DataError, match="does not fit"):
        Answerer(tiny_base).answer([replace(long_row, instruction="follow " * 3000)])
