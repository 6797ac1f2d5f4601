"""Adapters come and go on one loaded base."""

from __future__ import annotations

from pathlib import Path

import pytest

from ecellm_mlx import sample
from ecellm_mlx.data import rows as rows_module
from ecellm_mlx.device.backend import mx
from ecellm_mlx.errors import AdapterError
from ecellm_mlx.inference.answers import Answerer
from ecellm_mlx.models import loading, lora


def make_adapter(folder: Path, model_path: Path, seed: int, *, dora: bool = False) -> Path:
    model = loading.load(model_path).model
    spec = lora.LoraSpec(4, 2.0, 0.1, lora.resolve_targets(model, ["all-linear"]), dora=dora)
    lora.attach(model, spec, seed=seed)
    weights = lora.parameters(model)
    # B starts at zero, which would leave the base's answers as they are.
    changed = [(n, mx.random.normal(w.shape)) for n, w in weights.items() if n.endswith("_b")]
    model.load_weights(changed, strict=False)
    folder.mkdir()
    lora.save(folder, model, spec, {})
    return folder


def test_swapping_equals_loading_afresh(tiny: Path, tmp_path: Path) -> None:
    adapters = [
        make_adapter(tmp_path / "a", tiny, 1),
        make_adapter(tmp_path / "b", tiny, 2, dora=True),
    ]
    rows = rows_module.load(sample.folder() / "test.jsonl", tasks=["PM", "SA"])[:4]

    def fresh(folder: Path | None) -> dict[int, dict[str, float]]:
        base = loading.load(tiny)
        if folder:
            lora.load(base.model, folder, base=base.fingerprint)
        return {a.index: a.options for a in Answerer(base).answer(rows)}

    expected = {folder: fresh(folder) for folder in (None, *adapters)}
    assert expected[adapters[0]] != expected[adapters[1]] != expected[None]
    base = loading.load(tiny)
    answerer = Answerer(base)
    body = base.model.model.layers[0].input_layernorm.weight
    for folder in (adapters[0], adapters[1], None, adapters[1], adapters[0]):
        lora.swap(base.model, folder, base=base.fingerprint)
        assert {a.index: a.options for a in answerer.answer(rows)} == expected[folder]
    assert base.model.model.layers[0].input_layernorm.weight is body
    # What cannot be loaded leaves the present adapter where it is.
    (adapters[1] / "adapters.safetensors").write_bytes(b"broken")
    with pytest.raises(AdapterError):
        lora.swap(base.model, adapters[1], base=base.fingerprint)
    assert {a.index: a.options for a in answerer.answer(rows)} == expected[adapters[0]]
