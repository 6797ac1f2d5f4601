"""Modules with ranks and scales of their own fit mlx-lm's format and come back bit for bit."""

from __future__ import annotations

import json
from pathlib import Path

import hypothesis.extra.numpy as arrays
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ecellm_mlx.device.backend import mx

from converters.adapter import Adapter, LoraModule, Shape, alpha_of, divisor
from converters.base import Blocks
from converters.errors import ConversionError
from converters.mlx_adapter import ORIGINALS, WEIGHTS, read_mlx, write_mlx
from converters.packing import Packed, common_scale, pack, same_bits, unpack

BLOCKS = Blocks("model.layers.", 2)
DTYPES = {"float32": mx.float32, "float16": mx.float16, "bfloat16": mx.bfloat16}


def module(rank: int, alpha: float, *, rslora: bool = False, dtype: mx.Dtype = mx.float32):
    a = mx.random.normal((6, rank)).astype(dtype)
    b = mx.random.normal((rank, 5)).astype(dtype)
    return LoraModule(a, b, alpha / divisor(rank, rslora), alpha)


def stored(packed: Packed) -> dict[str, LoraModule]:
    names = {name.rpartition(".")[0] for name in packed.tensors}
    return {
        name: LoraModule(
            packed.tensors[f"{name}.lora_a"], packed.tensors[f"{name}.lora_b"], packed.scale
        )
        for name in names
    }


@st.composite
def adapters(draw: st.DrawFn) -> dict[str, LoraModule]:
    """Modules with any rank, alpha, dtype and numbers, the smallest and largest included."""
    rslora = draw(st.booleans())
    dtype = draw(st.sampled_from(sorted(DTYPES)))
    modules = {}
    for index in range(draw(st.integers(1, 4))):
        rank = draw(st.integers(1, 7))
        alpha = draw(st.integers(1, 64) | st.floats(0.01, 64))
        width = 16 if dtype == "float16" else 32
        b = draw(
            arrays.arrays(f"f{width // 8}", (rank, 3), elements=st.floats(-8, 8, width=width))
        )
        a = mx.random.normal((4, rank))
        modules[f"model.layers.{index}.x"] = LoraModule(
            a.astype(DTYPES[dtype]),
            mx.array(b).astype(DTYPES[dtype]),
            alpha / divisor(rank, rslora),
            alpha,
        )
    return modules


@given(adapters())
@settings(max_examples=150, deadline=None)
def test_packing_is_undone_to_the_bit(modules: dict[str, LoraModule]) -> None:
    packed = pack(modules)
    back = unpack(stored(packed), packed.own, packed.originals)
    for name, before in modules.items():
        after = back[name]
        assert (after.rank, after.scale) == (before.rank, before.scale)
        assert same_bits(after.a, before.a)
        assert same_bits(after.b, before.b)


@given(adapters())
@settings(max_examples=60, deadline=None)
def test_packed_modules_are_the_same_update(modules: dict[str, LoraModule]) -> None:
    for name, plain in stored(pack(modules)).items():
        before = modules[name]
        left, right = (m.scale * wide(m.a) @ wide(m.b) for m in (before, plain))
        # One rounding of b in its own type is all that may differ.
        unit = {mx.float32: 2**-24, mx.float16: 2**-11, mx.bfloat16: 2**-8}[before.b.dtype]
        tiny = 2**-24 if before.b.dtype == mx.float16 else 1e-38
        size = np.abs(wide(before.a))
        allowed = before.scale * unit * size @ np.abs(wide(before.b))
        smallest = plain.scale * tiny * size.sum(axis=1, keepdims=True)
        assert np.all(np.abs(left - right) <= 1.01 * allowed + smallest)


def wide(array: mx.array) -> np.ndarray:
    return np.array(array.astype(mx.float32)).astype(np.float64)


def test_common_ranks_need_no_originals() -> None:
    packed = pack({"x": module(4, 16), "y": module(8, 16), "z": module(16, 16)})
    assert (packed.rank, packed.scale) == (16, 1.0)
    assert packed.originals == {}
    assert packed.own["x"] == Shape(4, 4.0, 16)


def test_equal_modules_have_no_record() -> None:
    assert pack({"x": module(4, 8), "y": module(4, 8)}).own == {}


@pytest.mark.parametrize(
    ("scales", "chosen"), [([1.0, 2.0, 4 / 3], 1.0), ([8.0, 0.5, 3.0], 0.5), ([3.0], 3.0)]
)
def test_the_common_scale_makes_most_factors_powers_of_two(
    scales: list[float], chosen: float
) -> None:
    assert common_scale(scales) == chosen


def test_what_would_overflow_at_the_common_scale_is_stored_at_the_largest() -> None:
    a, b = mx.ones((6, 2), mx.float16), mx.full((2, 5), 40.0, mx.float16)
    large = LoraModule(a, b, 3000.0, 6000.0)
    modules = {
        "small": module(2, 2 / 3, dtype=mx.float16),
        "same": module(2, 2 / 3, dtype=mx.float16),
        "large": large,
    }
    packed = pack(modules)
    assert packed.scale == 3000
    assert all(mx.all(mx.isfinite(tensor)).item() for tensor in packed.tensors.values())
    back = unpack(stored(packed), packed.own, packed.originals)
    for name, before in modules.items():
        assert same_bits(back[name].b, before.b)


@given(st.integers(1, 256), st.floats(0.01, 64), st.booleans())
def test_alpha_gives_the_scale_it_was_made_from(rank: int, alpha: float, rslora: bool) -> None:
    scale = alpha / divisor(rank, rslora)
    result = alpha_of(LoraModule(mx.zeros((1, rank)), mx.zeros((rank, 1)), scale), rslora)
    assert result / divisor(rank, rslora) == scale


def test_files_hold_originals_only_where_needed(tmp_path: Path) -> None:
    for name, odd in (("even", 16.0), ("odd", 5.0)):
        folder = tmp_path / name
        folder.mkdir()
        modules = {"model.layers.0.q": module(8, 16.0), "model.layers.1.q": module(3, odd)}
        write_mlx(folder, Adapter(modules, 0.1), BLOCKS)
        back = read_mlx(folder).modules
        assert all(same_bits(back[n].b, modules[n].b) for n in modules)
        assert all(back[n].alpha == modules[n].alpha for n in modules)
    assert (tmp_path / "odd" / ORIGINALS).exists()


def test_changed_numbers_are_not_overruled_by_originals(tmp_path: Path) -> None:
    modules = {"model.layers.0.q": module(8, 16.0), "model.layers.1.q": module(3, 5.0)}
    write_mlx(tmp_path, Adapter(modules), BLOCKS)
    tensors = dict(mx.load(str(tmp_path / WEIGHTS)))
    mx.eval(tensors)
    for name in (n for n in tensors if n.endswith("lora_b")):
        tensors[name] = tensors[name] * 1.5
    mx.save_safetensors(str(tmp_path / WEIGHTS), tensors)
    with pytest.raises(ConversionError, match=r"was changed.*remove the file of originals"):
        read_mlx(tmp_path)
    (tmp_path / ORIGINALS).unlink()
    changed = read_mlx(tmp_path).modules["model.layers.1.q"]
    assert mx.allclose(changed.b, modules["model.layers.1.q"].b * 1.5)


def test_a_record_that_contradicts_the_tensors_is_refused(tmp_path: Path) -> None:
    modules = {"model.layers.0.q": module(8, 16.0), "model.layers.1.q": module(4, 16.0)}
    write_mlx(tmp_path, Adapter(modules), BLOCKS)
    path = tmp_path / "adapter_config.json"
    config = json.loads(path.read_text())
    config["ecellm"]["modules"]["model.layers.0.q"]["rank"] = 4
    path.write_text(json.dumps(config))
    with pytest.raises(ConversionError, match=r"layers\.0\.q has the recorded rank 4"):
        read_mlx(tmp_path)
