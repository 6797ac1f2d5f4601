"""Model folders are quantized and imported whole, or refused with a reason."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ecellm_mlx.device.backend import mx
from ecellm_mlx.errors import ModelError
from ecellm_mlx.models import folder, loading
from ecellm_mlx.models.fingerprint import base_fingerprint

TOKENS = mx.array([[5, 400, 77, 1234, 9]])


def test_a_quantized_copy_is_installed_by_name(
    ecellm: Any, tiny: Path, workspace_home: Path
) -> None:
    done = ecellm("models", "quantize", tiny, "--bits", "8", "--json")
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    path = workspace_home / "models" / "llama-8bit"
    assert Path(answer["path"]) == path
    assert answer["divergence"]["mean_kl"] < 0.01
    assert answer["divergence"]["mean_kl_of_fine_tune"] is None
    model = loading.load("llama-8bit").model
    expected = loading.load(tiny).model(TOKENS)
    assert 0 < mx.abs(model(TOKENS) - expected).max().item() < 0.2
    shown = json.loads(ecellm("models", "show", "llama-8bit", "--json").stdout)
    assert shown["bits"] == 8
    again = ecellm("models", "quantize", tiny, "--bits", "8")
    assert again.returncode == 1
    assert "already exists" in again.stderr
    assert ecellm("models", "quantize", tiny, "--bits", "5").returncode == 2


def test_a_folder_is_imported_under_a_name(
    ecellm: Any, tiny: Path, tmp_path: Path, workspace_home: Path
) -> None:
    source = tmp_path / "Download"
    shutil.copytree(tiny, source)
    (source / "modeling_evil.py").write_text("raise SystemExit")
    (source / "LICENSE").write_text("terms")
    done = ecellm("models", "import", source, "--name", "mine")
    assert done.returncode == 0, done.stderr
    path = workspace_home / "models" / "mine"
    assert done.stdout == f"{path}\n"
    assert base_fingerprint(path) == base_fingerprint(tiny)
    assert (path / "LICENSE").read_text() == "terms"
    assert not (path / "modeling_evil.py").exists()
    expected = np.array(loading.load(tiny).model(TOKENS))
    assert np.array_equal(np.array(loading.load("mine").model(TOKENS)), expected)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "config.json").write_text('{"model_type": "x_y"}'), "x_y"),
        (lambda f: (f / "tokenizer.json").unlink(), "no tokenizer"),
        (lambda f: (f / "model.safetensors").write_bytes(b"\x10"), "damaged"),
        (lambda f: (f / "model.safetensors").unlink(), "no weights"),
    ],
)
def test_what_cannot_be_used_is_refused(
    damage: Any, message: str, tiny: Path, tmp_path: Path
) -> None:
    source = tmp_path / "model"
    shutil.copytree(tiny, source)
    damage(source)
    with pytest.raises(ModelError, match=message):
        folder.copy_folder(source, tmp_path / "copy")
    assert not (tmp_path / "copy").exists()
