"""Rows read without padding, in parts and passes of any size: nothing but the speed changes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ecellm_mlx import device
from ecellm_mlx.device import cpu, runtime
from ecellm_mlx.device.backend import mx, nn
from ecellm_mlx.device.cpu import packed
from ecellm_mlx.device.cpu.packed import PackedCache, divided
from ecellm_mlx.device.padded import BatchCache
from ecellm_mlx.device.protocol import RowCache
from ecellm_mlx.inference.engine import Engine, Prompt
from ecellm_mlx.models import loading

pytestmark = pytest.mark.skipif(
    device.name() != "cpu", reason="rows are packed on the CPU backend alone"
)
Rows = list[list[int]]


@pytest.fixture(params=["llama", "mistral", "phi"])
def model(request: pytest.FixtureRequest, tiny_models: dict[str, Path]) -> nn.Module:
    return loading.load(tiny_models[request.param]).model


@pytest.fixture
def cores(monkeypatch: pytest.MonkeyPatch) -> int:
    """Three cores, and parts as small as one likes."""
    monkeypatch.setattr(runtime, "host_threads", lambda: 3)
    monkeypatch.setattr(packed, "LEAST_TOKENS", 1)
    return 3


def drawn(*lengths: int) -> Rows:
    rng = np.random.default_rng(sum(lengths))
    return [rng.integers(20, 4000, n).tolist() for n in lengths]


def check(model: nn.Module, logits: mx.array, rows: Sequence[Sequence[int]]) -> None:
    for got, row in zip(logits, rows, strict=True):
        expected = model(mx.array(row)[None])[0, -1]
        assert mx.abs(got - expected).max().item() < 1e-4


def lengths_of(cache: RowCache) -> list[int]:
    return [int(n) for n in cache.lengths]


@pytest.mark.parametrize("pass_tokens", [1, 7, 64, 512])
def test_passes_of_any_size_give_the_plain_model(
    pass_tokens: int, model: nn.Module, cores: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cpu, "PASS_TOKENS", pass_tokens)
    engine = Engine(model)
    cache = engine.new_cache(4)
    rows = drawn(150, 3, 9, 40)
    check(model, engine.extend(cache, rows), rows)
    more = drawn(1, 12, 0, 30)
    logits = engine.extend(cache, more)
    longer = [a + b for a, b in zip(rows, more, strict=True)]
    fed = [i for i, tokens in enumerate(more) if tokens]
    check(model, logits[mx.array(fed)], [longer[i] for i in fed])
    assert lengths_of(cache) == [len(row) for row in longer]


@pytest.mark.parametrize("together", [0, 8])
def test_rows_that_read_a_little_may_be_scored_together_or_not(
    together: int, model: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packed, "GRID_TOKENS", together)
    engine = Engine(model)
    cache = engine.new_cache(5)
    rows = drawn(30, 5, 17, 4, 1)
    engine.extend(cache, rows)
    for more in (drawn(1, 1, 1, 1, 1), drawn(0, 3, 1, 8, 0), drawn(2, 0, 0, 0, 1)):
        fed = [i for i, tokens in enumerate(more) if tokens]
        logits = engine.extend(cache, more, fed)
        rows = [a + b for a, b in zip(rows, more, strict=True)]
        check(model, logits, [rows[i] for i in fed])


def test_every_run_gives_the_same_bits(model: nn.Module, cores: int) -> None:
    rows = drawn(90, 3, 55, 40, 41, 70)

    def run() -> bytes:
        engine = Engine(model)
        cache = engine.new_cache(len(rows))
        first = engine.extend(cache, rows)
        second = engine.extend(cache, drawn(1, 1, 1, 1, 1, 1))
        return np.array(first).tobytes() + np.array(second).tobytes()

    assert len({run() for _ in range(8)}) == 1


def test_a_selection_does_not_see_what_its_source_reads_later(model: nn.Module) -> None:
    engine = Engine(model)
    source = engine.new_cache(2)
    rows = drawn(20, 6)
    engine.extend(source, rows)
    chosen = source.select([1, 0, 1])
    again = chosen.select([2, 1])
    # Beyond the room that the source has, so that it moves.
    tails = drawn(200, 3)
    engine.extend(source, tails)
    assert lengths_of(chosen) == [6, 20, 6]
    more = drawn(2, 4, 1)
    check(
        model,
        engine.extend(chosen, more),
        [rows[1] + more[0], rows[0] + more[1], rows[1] + more[2]],
    )
    check(model, engine.extend(again, more[:2]), [rows[1] + more[0], rows[0] + more[1]])
    more = drawn(3, 2)
    check(
        model,
        engine.extend(source, more),
        [a + b + c for a, b, c in zip(rows, tails, more, strict=True)],
    )


def test_caches_join_whatever_they_have_read(model: nn.Module) -> None:
    engine = Engine(model)
    one, two, none = engine.new_cache(2), engine.new_cache(1), engine.new_cache(1)
    rows = drawn(5, 80, 12, 0)
    engine.extend(one, rows[:2])
    engine.extend(two, rows[2:3])
    joined = one.joined([two.select([0]), none])
    assert lengths_of(joined) == [5, 80, 12, 0]
    more = drawn(3, 1, 20, 7)
    check(
        model,
        engine.extend(joined, more),
        [a + b for a, b in zip(rows, more, strict=True)],
    )


def test_prefixes_of_groups_are_read_once(
    model: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    preamble, *heads = drawn(30, 12, 25, 3)
    tails = drawn(4, 9, 2, 11, 6, 5, 8)
    # The last group's own prefix is too short to be worth a pass.
    groups = [0, 1, 0, 1, 2, 2, 1]
    prompts = [
        Prompt((*preamble, *heads[g], *tail), str(g))
        for g, tail in zip(groups, tails, strict=True)
    ]
    engine = Engine(model, batch_size=3)
    read: list[int] = []
    passes = PackedCache.passes

    def counted(self: PackedCache, continuations: Rows, cores: int) -> object:
        read.append(sum(map(len, continuations)))
        return passes(self, continuations, cores)

    monkeypatch.setattr(PackedCache, "passes", counted)
    for batch in engine.prefill(prompts):
        check(model, batch.logits, [prompts[i].tokens for i in batch.indices])
    # Of the last group each row reads its short head itself.
    assert sum(read) == 30 + 12 + 25 + 2 * 3 + sum(map(len, tails))


def test_a_model_with_an_attention_of_its_own_is_read_padded(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlx_lm.models.llama as module

    def own(q: mx.array, k: mx.array, v: mx.array, cache: object, scale: float, mask: object):  # type: ignore[no-untyped-def]
        return mx.fast.scaled_dot_product_attention(q, k, v, scale=scale, mask=mask)

    model = loading.load(tiny).model
    assert isinstance(Engine(model).new_cache(1), PackedCache)
    # As if the model's file had no function that the host's could take the place of.
    monkeypatch.setattr(module.Attention, "__call__", _renamed(module, own))
    engine = Engine(model)
    assert isinstance(engine.new_cache(1), BatchCache)
    rows = drawn(20, 3, 9)
    check(model, engine.extend(engine.new_cache(3), rows), rows)


def _renamed(module: object, attention: object) -> object:
    """The module's attention, calling ``attention`` by another name."""
    import types

    call = module.Attention.__call__  # type: ignore[attr-defined]
    names = {**call.__globals__, "scaled_dot_product_attention": attention}
    return types.FunctionType(call.__code__, names, "__call__", call.__defaults__)


@given(st.lists(st.integers(0, 400), min_size=1, max_size=12), st.integers(1, 6))
def test_division_loses_no_row_and_keeps_cores_busy(counts: list[int], cores: int) -> None:
    parts = divided(counts, cores)
    assert sorted(row for part in parts for row in part) == [
        row for row, count in enumerate(counts) if count
    ]
    assert len(parts) <= cores
    if len(parts) > 1:
        sizes = [sum(counts[row] for row in part) for part in parts]
        assert max(sizes) <= packed.MOST_UNEVEN * sum(sizes) / len(sizes)
        assert min(sizes) >= packed.LEAST_TOKENS


def test_what_is_too_small_or_too_uneven_is_not_divided() -> None:
    assert divided([1] * 16, 2) == [list(range(16))]
    assert divided([500, 40, 40], 2) == [[0, 1, 2]]
    assert divided([100, 300, 0, 200], 2) == [[1], [0, 3]]
    assert divided([100, 300, 0, 200], 3) == [[1], [0, 3]]


@given(st.lists(st.integers(1, 90), min_size=1, max_size=9), st.integers(1, 64))
def test_cuts_are_even_and_keep_the_order(counts: list[int], most: int) -> None:
    cuts = list(packed._cut(list(enumerate(counts)), most))
    sizes = [sum(count for _, count in cut) for cut in cuts]
    assert max(sizes) <= most
    assert len(cuts) == -(-sum(counts) // max(sizes))
    flat = [row for cut in cuts for row, count in cut for _ in range(count)]
    assert flat == [row for row, count in enumerate(counts) for _ in range(count)]
