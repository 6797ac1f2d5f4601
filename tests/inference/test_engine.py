"""Batches, shared prefixes and uneven steps change nothing but the speed."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from ecellm_mlx.device.backend import mx
from ecellm_mlx.device.cpu.packed import PackedLayer
from ecellm_mlx.device.padded import best_width
from ecellm_mlx.device.protocol import UnsuitedError
from ecellm_mlx.errors import ModelError
from ecellm_mlx.inference import engine, sampling
from ecellm_mlx.inference.decoding import Decoder, Rule
from ecellm_mlx.inference.engine import Engine, Prefilled, Prompt, common_prefix
from ecellm_mlx.models import loading
from tests.cases import proof

RNG = np.random.default_rng(0)
PREAMBLE = tuple(RNG.integers(20, 4000, 30).tolist())
HEADS = [tuple(RNG.integers(20, 4000, n).tolist()) for n in (12, 25)]


@pytest.fixture(params=["packed", "padded", "plain"])
def reading(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows packed where the device can, padded there, and padded as on all others."""
    if request.param == "plain":
        monkeypatch.setenv("ECELLM_DEVICE", "plain")
    if request.param == "padded":

        def refuse(*_: object) -> None:
            raise UnsuitedError

        monkeypatch.setattr(PackedLayer, "attend", refuse)


def prompts() -> list[Prompt]:
    """Rows of two groups, of very different lengths, behind one preamble."""
    made = []
    for index, length in enumerate((1, 9, 40, 3, 17, 2, 28)):
        head = HEADS[index % 2]
        tail = tuple(RNG.integers(20, 4000, length).tolist())
        made.append(Prompt((*PREAMBLE, *head, *tail), str(index % 2)))
    return made


@pytest.mark.parametrize("name", ["llama", "mistral", "phi", "qwen3", "gemma3_text"])
@pytest.mark.parametrize("batch_size", [proof(1), 3, proof(16)])
@pytest.mark.usefixtures("reading")
def test_logits_and_answers_equal_the_plain_model(
    name: str, batch_size: int, tiny_models: dict[str, Path]
) -> None:
    model = loading.load(tiny_models[name]).model
    rows = prompts()
    engine = Engine(model, batch_size=batch_size)
    seen = []
    for batch in engine.prefill(rows):
        seen += batch.indices
        for place, index in enumerate(batch.indices):
            expected = model(mx.array(rows[index].tokens)[None])[0, -1]
            assert mx.abs(batch.logits[place] - expected).max().item() < 1e-4
        answers = decode(engine, batch, max_tokens=6)
        for index, answer in zip(batch.indices, answers, strict=True):
            assert answer == plain_greedy(model, rows[index].tokens, 6)
    assert sorted(seen) == list(range(len(rows)))


def decode(
    engine: Engine, batch: Prefilled, max_tokens: int, stop_ids: frozenset[int] = frozenset()
) -> list[list[int]]:
    """Greedy tokens of every row of ``batch``, in its order."""
    decoder = Decoder(engine)
    decoder.add(
        batch,
        [Rule(i, sampling.greedy, stop_ids, max_tokens) for i in range(len(batch.indices))],
    )
    ended = {step.key: step.tokens for step in decoder.run() if step.done}
    return [ended[i] for i in range(len(batch.indices))]


def plain_greedy(model: object, tokens: tuple[int, ...], count: int) -> list[int]:
    """Greedy tokens with a whole forward pass for each, without any cache."""
    sequence = list(tokens)
    for _ in range(count):
        sequence.append(int(model(mx.array(sequence)[None])[0, -1].argmax()))  # type: ignore[operator]
    return sequence[len(tokens) :]


@pytest.mark.usefixtures("reading")
def test_rows_may_go_on_by_different_numbers_of_tokens(tiny: Path) -> None:
    model = loading.load(tiny).model
    engine = Engine(model)
    rows = prompts()
    (batch,) = engine.prefill(rows)
    steps = [
        [[7], [8, 9, 10], [], [11, 12], [5], [6, 6], [1]],
        [[3, 3], [4], [2, 9], [], [8], [], [1]],
    ]
    sequences = [list(rows[i].tokens) for i in batch.indices]
    for step in steps:
        logits = engine.extend(batch.cache, step)
        for place, tokens in enumerate(step):
            sequences[place] += tokens
            if tokens:
                expected = model(mx.array(sequences[place])[None])[0, -1]
                assert mx.abs(logits[place] - expected).max().item() < 1e-4


@pytest.mark.usefixtures("reading")
def test_a_stop_token_ends_a_row_alone(tiny: Path) -> None:
    model = loading.load(tiny).model
    rows = prompts()
    (batch,) = Engine(model).prefill(rows)
    free = {i: plain_greedy(model, rows[i].tokens, 5) for i in batch.indices}
    stop = free[batch.indices[0]][2]
    answers = decode(Engine(model), batch, max_tokens=5, stop_ids=frozenset({stop}))
    for index, answer in zip(batch.indices, answers, strict=True):
        whole = free[index]
        assert answer == (whole[: whole.index(stop)] if stop in whole else whole)


@pytest.mark.usefixtures("reading")
def test_rows_join_while_others_are_under_way(tiny: Path) -> None:
    model = loading.load(tiny).model
    rows = prompts()
    decoder = Decoder(Engine(model))
    ended: dict[object, list[int]] = {}
    for batch in Engine(model, batch_size=2).prefill(rows):
        limits = [3 + 4 * (i % 3) for i in batch.indices]
        decoder.add(
            batch,
            [
                Rule(i, sampling.greedy, frozenset(), limit, start=(5, 6, 7) if i == 3 else ())
                for i, limit in zip(batch.indices, limits, strict=True)
            ],
        )
        ended.update({s.key: s.tokens for s in decoder.run(leave=2) if s.done})
        assert len(decoder) <= 2
    ended.update({s.key: s.tokens for s in decoder.run() if s.done})
    for index, row in enumerate(rows):
        count, start = 3 + 4 * (index % 3), [5, 6, 7] if index == 3 else []
        rest = plain_greedy(model, (*row.tokens, *start), count - len(start))
        assert ended[index] == start + rest


def test_long_forced_runs_wait_for_company() -> None:
    assert best_width([15, *[1] * 15], 32) == 1
    assert best_width([15] * 16, 32) == 15
    assert best_width([15] * 8 + [1] * 8, 32) == 15
    assert best_width([0, 0, 4], 32) == 4


@pytest.mark.parametrize(
    ("differences", "message"),
    [
        ([1e-9], None),
        # Logits of 16 bits after tokens that say nothing are rounding; others tell.
        ([0.6, 1e-9], None),
        ([math.inf, 0.6, 0.3], "3.0e-01"),
        ([math.inf] * 3, "inf"),
    ],
)
def test_a_model_is_refused_if_no_rows_agree_with_it(
    differences: list[float], message: str | None, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = loading.load(tiny).model
    # Packed first, and padded if that is of no use.
    left = iter(differences if message is None else differences * 2)
    monkeypatch.setattr(Engine, "_difference", lambda *_: next(left))
    if message is None:
        Engine(model)
    else:
        with pytest.raises(ModelError, match=f"share a batch: got .* {message}"):
            Engine(model)
    assert next(left, None) is None


def test_nan_is_no_agreement(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine(loading.load(tiny).model)
    monkeypatch.setattr(engine, "extend", lambda *_: mx.full((3, 8), mx.nan))
    monkeypatch.setattr(engine, "model", lambda tokens: mx.ones((1, tokens.shape[1], 8)))
    assert engine._difference([[1, 2], [3, 4], [5, 6]]) == math.inf


def test_common_prefix_leaves_a_token() -> None:
    assert common_prefix([(1, 2, 3), (1, 2, 3)]) == (1, 2)
    assert common_prefix([(1, 2, 3, 4), (1, 2, 9)]) == (1, 2)
    assert common_prefix([(5,), (6,)]) == ()
    assert common_prefix([]) == ()


def test_nucleus_samples_what_it_should() -> None:
    logits = np.log(np.array([0.5, 0.3, 0.15, 0.05], np.float32))
    choose = sampling.nucleus("row", seed=1, temperature=1.0, top_p=0.79)
    drawn = [choose(logits)[0] for _ in range(4000)]
    shares = np.bincount(drawn, minlength=4) / 4000
    assert shares == pytest.approx([0.625, 0.375, 0, 0], abs=0.03)
    again = sampling.nucleus("row", seed=1, temperature=1.0, top_p=0.79)
    assert [again(logits)[0] for _ in range(20)] == drawn[:20]
    other = sampling.nucleus("another", seed=1, temperature=1.0, top_p=0.79)
    assert [other(logits)[0] for _ in range(20)] != drawn[:20]


def test_nucleus_of_flat_logits_reaches_beyond_its_first_look() -> None:
    choose = sampling.nucleus("row", seed=1, temperature=1.0, top_p=0.95)
    drawn = {choose(np.zeros(1000, np.float32))[0] for _ in range(3000)}
    assert len(drawn) > 800


def test_log_probabilities_keep_their_digits_over_a_real_vocabulary() -> None:
    logits = 3 * mx.random.normal((4, 49_152))
    exact = np.array(logits).astype(np.float64)
    exact -= np.log(np.exp(exact).sum(axis=-1, keepdims=True))
    assert np.abs(engine._log_softmax(logits) / exact - 1).max() < 1e-6
