"""What is loaded computes on any thread, with an adapter on it or without."""

from __future__ import annotations

import json
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest

from ecellm_mlx.device.backend import mx
from ecellm_mlx.errors import AdapterError
from ecellm_mlx.models import loading, lora

TOKENS = [[5, 9, 200, 31]]
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 50_000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 512,
}


def logits(base: loading.LoadedModel) -> np.ndarray:
    return np.array(base.model(mx.array(TOKENS)))


def on_a_thread(base: loading.LoadedModel) -> np.ndarray:
    results = []
    # Other arrays begin on this thread than the ones that the model was made of.
    thread = threading.Thread(target=lambda: results.append(logits(base)))
    thread.start()
    thread.join()
    (result,) = results
    return result


@pytest.fixture
def llama3(tiny: Path, tmp_path: Path) -> Path:
    """A model whose rotary frequencies are arrays, and no parameters."""
    folder = tmp_path / "llama3"
    shutil.copytree(tiny, folder)
    file = folder / "config.json"
    config = json.loads(file.read_text())
    file.write_text(json.dumps({**config, "rope_parameters": LLAMA3}))
    return folder


@pytest.fixture
def adapter(tiny: Path, tmp_path: Path) -> Path:
    """A run with an adapter that changes the answers of the tiny model."""
    base = loading.load(tiny)
    spec = lora.LoraSpec(4, 4.0, 0.0, lora.resolve_targets(base.model, ["all-linear"]))
    lora.attach(base.model, spec, seed=0)
    grown = [
        (name, mx.random.normal(array.shape) * 0.3)
        for name, array in lora.parameters(base.model).items()
    ]
    base.model.load_weights(grown, strict=False)
    folder = tmp_path / "run" / "adapter"
    folder.mkdir(parents=True)
    lora.save(folder, base.model, spec, {"base": {"fingerprint": base.fingerprint}})
    return folder.parent


def test_another_thread_may_compute(llama3: Path) -> None:
    loaded = on_a_thread(loading.load(llama3))
    np.testing.assert_array_equal(loaded, logits(loading.load(llama3)))


def test_an_adapter_is_put_on_and_taken_off(tiny: Path, adapter: Path) -> None:
    plain = logits(loading.load(tiny))
    base = loading.load(tiny, adapter)
    adapted = logits(base)
    assert np.abs(adapted - plain).max() > 0.1
    base.use_adapter(None)
    np.testing.assert_array_equal(logits(base), plain)
    base.use_adapter(adapter / "adapter")
    np.testing.assert_array_equal(on_a_thread(base), adapted)


def test_an_adapter_of_another_base_is_refused(
    tiny_models: dict[str, Path], adapter: Path, tmp_path: Path
) -> None:
    with pytest.raises(AdapterError, match="trained on another base"):
        loading.load(tiny_models["mistral"], adapter)
    with pytest.raises(AdapterError, match="holds no adapter"):
        loading.load(tiny_models["mistral"], tmp_path)
