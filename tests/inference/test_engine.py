"""Batches, shared prefixes and uneven steps change nothing but the speed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ecellm_mlx.backend import mx
from ecellm_mlx.inference import sampling
from ecellm_mlx.inference.engine import Engine, Prompt, common_prefix
from ecellm_mlx.models import loading

RNG = np.random.default_rng(0)
PREAMBLE = tuple(RNG.integers(20, 4000, 30).tolist())
HEADS = [tuple(RNG.integers(20, 4000, n).tolist()) for n in (12, 25)]


def prompts() -> list[Prompt]:
    """Rows of two groups, of very different lengths, behind one preamble."""
    made = []
    for index, length in enumerate((1, 9, 40, 3, 17, 2, 28)):
        head = HEADS[index % 2]
        tail = tuple(RNG.integers(20, 4000, length).tolist())
        made.append(Prompt((*PREAMBLE, *head, *tail), str(index % 2)))
    return made


@pytest.mark.parametrize("name", ["llama", "mistral", "phi"])
@pytest.mark.parametrize("batch_size", [1, 3, 16])
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
        answers = engine.decode(
            batch, [sampling.greedy] * len(batch.indices), max_tokens=6, stop_ids=frozenset()
        )
        for index, answer in zip(batch.indices, answers, strict=True):
            assert answer == plain_greedy(model, rows[index].tokens, 6)
    assert sorted(seen) == list(range(len(rows)))


def plain_greedy(model: object, tokens: tuple[int, ...], count: int) -> list[int]:
    """Greedy tokens with a whole forward pass for each, without any cache."""
    sequence = list(tokens)
    for _ in range(count):
        sequence.append(int(model(mx.array(sequence)[None])[0, -1].argmax()))  # type: ignore[operator]
    return sequence[len(tokens) :]


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


def test_a_stop_token_ends_a_row_alone(tiny: Path) -> None:
    model = loading.load(tiny).model
    rows = prompts()
    (batch,) = Engine(model).prefill(rows)
    free = {i: plain_greedy(model, rows[i].tokens, 5) for i in batch.indices}
    stop = free[batch.indices[0]][2]
    answers = Engine(model).decode(
        batch, [sampling.greedy] * 7, max_tokens=5, stop_ids=frozenset({stop})
    )
    for index, answer in zip(batch.indices, answers, strict=True):
        whole = free[index]
        assert answer == (whole[: whole.index(stop)] if stop in whole else whole)


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
