"""Plans: every row once, in an order that follows from seed and epoch alone."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ecellm_mlx.data import rows
from ecellm_mlx.data.batches import collate, padding_share, plan
from ecellm_mlx.data.encoding import encode_rows
from ecellm_mlx.data.prompts import Frame
from ecellm_mlx.sample import folder

PAD = 0


class Words:
    """A token for each piece of up to five characters: lengths much as BPE's."""

    eos_token_id = 2

    def encode(self, text: str) -> list[int]:
        return [1] + [3 + len(text[i : i + 5]) for i in range(0, len(text), 5)]


@pytest.fixture(scope="module")
def encoded():
    return encode_rows(rows.load(folder() / "train.jsonl"), Words(), Frame.ALPACA, 2048).kept


orders = st.sampled_from(["bucketed", "shuffled"])
all_lengths = st.lists(st.integers(1, 50), max_size=60)


@settings(deadline=None, max_examples=60)
@given(all_lengths, st.integers(1, 5), st.integers(1, 4), st.integers(0, 9), orders)
def test_every_row_once_in_full_batches(lengths, micro, times, epoch, order):
    batch = micro * times
    steps = plan(
        lengths, micro_batch_size=micro, batch_size=batch, epoch=epoch, seed=7, order=order
    )
    micro_batches = [rows for step in steps for rows in step]
    assert sorted(i for rows in micro_batches for i in rows) == list(range(len(lengths)))
    assert len(steps) == -(-len(lengths) // batch)
    assert len(micro_batches) == -(-len(lengths) // micro)
    # All but the last step have all micro-batches, all but one micro-batch all rows.
    assert [len(step) for step in steps[:-1]] == [times] * (len(steps) - 1)
    full = Counter(len(rows) for rows in micro_batches)[micro]
    assert full >= len(micro_batches) - 1
    assert all(micro_batches)


@settings(deadline=None, max_examples=60)
@given(all_lengths, orders, st.integers(0, 2**32), st.integers(0, 5))
def test_a_plan_follows_from_seed_and_epoch(lengths, order, seed, epoch):
    sizes = {"micro_batch_size": 2, "batch_size": 4, "order": order}
    first = plan(lengths, **sizes, seed=seed, epoch=epoch)
    np.random.default_rng().random()
    assert plan(lengths, **sizes, seed=seed, epoch=epoch) == first


@pytest.mark.parametrize("order", ["bucketed", "shuffled"])
def test_seeds_and_epochs_differ_even_where_all_lengths_are_equal(order):
    def flat(seed, epoch):
        steps = plan(
            [8] * 64, micro_batch_size=4, batch_size=8, epoch=epoch, seed=seed, order=order
        )
        return [tuple(rows) for step in steps for rows in step]

    a, b, c = flat(0, 0), flat(0, 1), flat(1, 0)
    assert len({tuple(a), tuple(b), tuple(c)}) == 3
    # Not the same micro-batches in another order: equal lengths mix anew.
    assert {frozenset(rows) for rows in a} != {frozenset(rows) for rows in b}


@settings(deadline=None, max_examples=60)
@given(all_lengths)
def test_bucketed_micro_batches_hold_neighbours_in_length(lengths):
    steps = plan(lengths, micro_batch_size=3, batch_size=3, epoch=0, seed=0)
    groups = sorted([lengths[i] for i in rows] for step in steps for rows in step)
    for shorter, longer in pairwise(groups):
        assert max(shorter) <= min(longer)


@pytest.mark.parametrize("micro", [4, 8, 16])
def test_little_padding_on_real_rows(encoded, micro):
    lengths = [len(row.tokens) for row in encoded]
    sizes = {"micro_batch_size": micro, "batch_size": 32, "seed": 42}
    for epoch in range(3):
        assert padding_share(plan(lengths, **sizes, epoch=epoch), lengths) <= 0.05
        shuffled = plan(lengths, **sizes, epoch=epoch, order="shuffled")
        assert padding_share(shuffled, lengths) > 0.15


def test_padding_share_by_hand():
    assert padding_share([[[0, 1], [2]]], [2, 4, 6]) == pytest.approx(1 - 12 / 14)
    assert padding_share([], []) == 0.0


def test_steps_mix_short_and_long_rows(encoded):
    """Length must not drift through an epoch: that would bend the learning curve."""
    lengths = np.array([len(row.tokens) for row in encoded])
    steps = plan(lengths.tolist(), micro_batch_size=4, batch_size=32, epoch=0, seed=0)
    means = np.array([lengths[[i for rows in step for i in rows]].mean() for step in steps])
    assert abs(np.corrcoef(np.arange(len(means)), means)[0, 1]) < 0.7


@pytest.mark.parametrize(
    ("sizes", "words"),
    [
        ({"micro_batch_size": 3, "batch_size": 4}, "no positive multiple"),
        ({"micro_batch_size": 0, "batch_size": 4}, "no positive multiple"),
        ({"micro_batch_size": 2, "batch_size": 4, "order": "sorted"}, "'sorted' is none of"),
    ],
)
def test_impossible_plans_are_refused(sizes, words):
    with pytest.raises(ValueError, match=words):
        plan([1, 2], **sizes, epoch=0, seed=0)


def test_targets_are_the_supervised_tokens_and_never_padding(encoded):
    lengths = [len(row.tokens) for row in encoded]
    for step in plan(lengths, micro_batch_size=8, batch_size=64, epoch=0, seed=1):
        for indices in step:
            batch = collate(encoded, indices, PAD)
            assert batch.tokens.dtype == np.int32
            assert batch.tokens.shape == (len(indices), max(lengths[i] for i in indices))
            assert batch.real_tokens == np.count_nonzero(batch.tokens != PAD)
            assert PAD not in batch.target_ids
            for number, index in enumerate(indices):
                row = encoded[index]
                mine = batch.target_rows == number
                assert batch.target_ids[mine].tolist() == row.tokens[row.prompt_length :]
                assert batch.target_positions[mine].tolist() == list(row.target_positions)
                assert batch.tokens[number, : len(row.tokens)].tolist() == row.tokens
            assert batch.supervised == sum(len(encoded[i].target_positions) for i in indices)


def test_a_pad_id_that_is_also_eos_stays_out_of_the_targets(encoded):
    batch = collate(encoded, [0, 1, 2], Words.eos_token_id)
    assert np.count_nonzero(batch.target_ids == Words.eos_token_id) == 3
