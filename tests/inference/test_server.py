"""``ecellm serve``: mlx-lm's server with our model and adapter, measured through its port."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ecellm_mlx import sample
from ecellm_mlx.data import prompts, rows
from ecellm_mlx.device.backend import mx
from ecellm_mlx.models import loading, lora


@pytest.fixture(scope="module")
def adapter(tiny_models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random adapter for the tiny model, large enough to change every answer."""
    base = loading.load(tiny_models["llama"])
    modules = lora.resolve_targets(base.model, ["all-linear"])
    spec = lora.LoraSpec(4, 4.0, 0.0, modules)
    lora.attach(base.model, spec, seed=0)
    mx.random.seed(1)
    base.model.load_weights(
        [(n, mx.random.normal(w.shape) * 0.3) for n, w in lora.parameters(base.model).items()],
        strict=False,
    )
    folder = tmp_path_factory.mktemp("adapter")
    lora.save(folder, base.model, spec, {"base": {"fingerprint": base.fingerprint}})
    return folder


@dataclass
class Served:
    """A running server."""

    url: str
    process: subprocess.Popen[str]

    def ask(self, path: str, **body: Any) -> dict[str, Any]:
        """POST to the server."""
        request = urllib.request.Request(
            f"{self.url}{path}",
            data=json.dumps(body).encode(),
            headers={"Content-Type": "application/json"},
        )
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(request, timeout=60) as response:
            return dict(json.loads(response.read()))


@pytest.fixture(scope="module")
def served(
    tiny_models: dict[str, Path], adapter: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Served]:
    """One server for all tests."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = tmp_path_factory.mktemp("serve") / "log"
    with log.open("w") as stream:
        process = subprocess.Popen(
            [sys.executable, "-m", "ecellm_mlx.cli", "serve", "--model",
             str(tiny_models["llama"]), "--adapter", str(adapter), "--port", str(port)],
            stdout=stream, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
    deadline = time.monotonic() + 180
    while "Starting httpd" not in log.read_text():
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.05)
    yield Served(f"http://127.0.0.1:{port}", process)
    process.terminate()
    process.wait(timeout=60)


def greedy(model: Any, tokens: list[int], count: int) -> list[int]:
    """The likeliest continuation, by whole forward passes."""
    tokens = list(tokens)
    for _ in range(count):
        tokens.append(int(np.argmax(np.array(model(mx.array([tokens]))[0, -1]))))
    return tokens[-count:]


def test_answers_with_the_adapter(served: Served, tiny: Path, adapter: Path) -> None:
    base = loading.load(tiny)
    row = rows.load(sample.folder() / "test.jsonl", tasks=["SA"])[0]
    prompt = prompts.prompt(row, base.frame)
    tokens = base.tokenizer.encode(prompt)
    without = greedy(base.model, tokens, 6)
    base.use_adapter(adapter)
    expected = greedy(base.model, tokens, 6)
    assert expected != without, "the adapter changes the answer"
    found = served.ask("/v1/completions", prompt=prompt, max_tokens=6, temperature=0)
    assert found["choices"][0]["text"] == base.tokenizer.decode(expected)


def test_is_measured_through_its_port(served: Served, ecellm: Any, tmp_path: Path) -> None:
    done = ecellm(
        "eval", "--model", "default_model", "--endpoint", f"{served.url}/v1",
        "--data", sample.folder() / "test.jsonl", "--task", "PM",
        "--limit", "3", "--out", tmp_path / "run", "--json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    results = json.loads(done.stdout)
    assert results["n"] == 3
    lines = (tmp_path / "run" / "predictions.jsonl").read_text().splitlines()
    assert any(json.loads(line)["prediction"] for line in lines)


def test_has_one_model_and_fetches_none(served: Served) -> None:
    with pytest.raises(urllib.error.HTTPError) as refusal:
        served.ask("/v1/completions", prompt="x", model="someone/else", max_tokens=1)
    assert "one model" in refusal.value.read().decode()
    refusal.value.close()


def test_refusals(refused: Any, tiny_models: dict[str, Path], adapter: Path) -> None:
    tiny = tiny_models["llama"]
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        message = refused("serve", "--model", tiny, "--port", port)
    assert f"cannot listen at 127.0.0.1:{port}" in message
    wrong = refused(
        "serve", "--model", tiny_models["phi"], "--adapter", adapter, "--port", port
    )
    assert "trained on another base model" in wrong
    assert "is not installed" in refused("serve", "--model", "phi-2")
