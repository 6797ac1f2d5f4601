"""Names of models: what the registry says, what is installed, where one lives."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from ecellm_mlx.errors import ModelError, UsageError
from ecellm_mlx.models.registry import (
    REGISTRY,
    ModelCard,
    installed,
    parse_name,
    resolve,
)
from ecellm_mlx.workspace import Workspace

pytestmark = pytest.mark.unit


@pytest.fixture
def space(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path / "home")


def add_model(folder: Path, config: object = None, weights: int = 1000) -> Path:
    folder.mkdir(parents=True)
    text = config if isinstance(config, str) else json.dumps(config or {"model_type": "phi"})
    (folder / "config.json").write_text(text)
    if weights:
        (folder / "model.safetensors").write_bytes(b"\0" * weights)
    return folder


def test_the_published_names_are_all_there() -> None:
    assert list(REGISTRY) == [
        "ecellm-s",
        "ecellm-m",
        "ecellm-l",
        "phi-2",
        "mistral-7b-instruct-v0.2",
        "llama-2-13b-chat",
        "smollm2-135m",
    ]


@pytest.mark.parametrize("card", REGISTRY.values(), ids=list(REGISTRY))
def test_the_architecture_of_a_card_adds_up_to_its_size(card: ModelCard) -> None:
    head = card.hidden // card.heads
    attention = 2 * card.hidden * head * (card.heads + card.kv_heads)
    mlp = (2 if card.model_type == "phi" else 3) * card.hidden * card.intermediate
    embeddings = (1 if card.tied_head else 2) * card.vocab * card.hidden
    total = card.layers * (attention + mlp) + embeddings
    assert total / 1e9 == pytest.approx(card.parameters_b, rel=0.005)
    # Two bytes a weight.
    assert card.download_gb == pytest.approx(2 * card.parameters_b, rel=0.02)


@pytest.mark.parametrize("card", REGISTRY.values(), ids=list(REGISTRY))
def test_a_variant_has_the_shape_and_frame_of_its_base(card: ModelCard) -> None:
    assert card.frame == ("mistral" if card.model_type == "mistral" else "alpaca")
    assert card.gated == (card.name == "llama-2-13b-chat")
    if card.name.startswith("ecellm-"):
        base = REGISTRY[str(card.base)]
        for fact in ("model_type", "frame", "layers", "hidden", "vocab", "parameters_b"):
            assert getattr(card, fact) == getattr(base, fact)
    else:
        assert card.base is None


@pytest.mark.parametrize(
    ("text", "folder", "repo", "revision"),
    [
        ("phi-2", "phi-2", "microsoft/phi-2", "main"),
        ("phi-2@main", "phi-2", "microsoft/phi-2", "main"),
        ("microsoft/phi-2", "phi-2", "microsoft/phi-2", "main"),
        ("phi-2@834565c", "phi-2@834565c", "microsoft/phi-2", "834565c"),
        ("phi-2@refs/pr/1", "phi-2@refs--pr--1", "microsoft/phi-2", "refs/pr/1"),
        ("shop/tiny", "shop--tiny", "shop/tiny", "main"),
        ("shop/tiny@v1.0", "shop--tiny@v1.0", "shop/tiny", "v1.0"),
    ],
)
def test_names_are_taken_apart(text: str, folder: str, repo: str, revision: str) -> None:
    name = parse_name(text)
    assert (name.folder, name.repo, name.revision) == (folder, repo, revision)


def test_a_revision_may_come_apart_from_the_name() -> None:
    assert parse_name("phi-2", "abc") == parse_name("phi-2@abc")
    with pytest.raises(UsageError, match=r"two different revisions"):
        parse_name("phi-2@abc", "def")


def test_installed_lists_what_is_there(space: Workspace) -> None:
    assert installed(space) == []
    add_model(space.models / "phi-2", weights=3_000_000)
    quantized = {"model_type": "llama", "quantization": {"group_size": 64, "bits": 4}}
    add_model(space.models / "my-model-4bit", quantized)
    add_model(space.models / "ecellm-s.partial")
    add_model(space.models / "ecellm-s.old")
    (space.models / "notes.txt").write_text("no model")

    mine, phi = installed(space)
    assert (mine.name, mine.model_type, mine.bits, mine.card) == (
        "my-model-4bit",
        "llama",
        4,
        None,
    )
    assert (phi.name, phi.bits, phi.card) == ("phi-2", None, REGISTRY["phi-2"])
    assert phi.size_gb == pytest.approx(0.003, rel=0.01)
    assert phi.path == space.models / "phi-2"
    assert phi.problem == mine.problem == ""


@pytest.mark.parametrize(
    ("config", "problem"),
    [
        ("{broken", "config.json cannot be read: Expecting"),
        ("[]", "config.json cannot be read"),
        ("\ufffd", "config.json cannot be read"),
        ('{"hidden_size": 1}', "config.json has no 'model_type'"),
        ('{"model_type": "phi", "quantization": 4}', "config.json cannot be read"),
    ],
)
def test_a_damaged_model_is_listed_with_its_problem(
    space: Workspace, config: str, problem: str
) -> None:
    add_model(space.models / "damaged", config)
    add_model(space.models / "sound")
    damaged, sound = installed(space)
    assert damaged.problem.startswith(problem)
    assert sound.problem == ""


def test_a_model_without_weights_is_listed_with_its_problem(space: Workspace) -> None:
    add_model(space.models / "phi-2", weights=0)
    assert installed(space)[0].problem == "there are no weights (model*.safetensors)"


def test_a_folder_is_its_own_name(space: Workspace, tmp_path: Path) -> None:
    folder = add_model(tmp_path / "elsewhere" / "model")
    assert resolve(str(folder), space) == folder


def test_installed_names_are_found(space: Workspace) -> None:
    for name in ("phi-2", "phi-2-4bit", "shop--tiny", "phi-2@abc"):
        add_model(space.models / name)
    assert resolve("phi-2", space).name == "phi-2"
    assert resolve("microsoft/phi-2", space).name == "phi-2"
    assert resolve("phi-2-4bit", space).name == "phi-2-4bit"
    assert resolve("shop/tiny", space).name == "shop--tiny"
    assert resolve("shop--tiny", space).name == "shop--tiny"
    assert resolve("phi-2@abc", space).name == "phi-2@abc"


def test_an_unrelated_folder_does_not_hide_an_installed_model(
    space: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "phi-2").mkdir()
    monkeypatch.chdir(tmp_path)
    add_model(space.models / "phi-2")
    assert resolve("phi-2", space) == space.models / "phi-2"


@pytest.mark.parametrize(
    ("model", "sentence"),
    [
        ("phi-2", "phi-2 is not installed; run `ecellm models pull phi-2`."),
        ("phi-2@abc", "phi-2@abc is not installed; run `ecellm models pull phi-2@abc`."),
        (
            "smollm2-135m",
            "smollm2-135m is not installed; run `ecellm models import smollm2-135m`.",
        ),
        ("phi-3", "there is no model 'phi-3': expected one of ecellm-s, "),
        ("phi-3", "smollm2-135m; or give a folder."),
        ("", "there is no model '': "),
        ("./none", "there is no model './none': "),
        ("..", "it has no config.json; give the folder that holds config.json"),
        ("folder", "folder is no model folder: it has no config.json"),
        (
            "file.gguf",
            "file.gguf is a file, not a model folder; "
            "import it with `ecellm models import file.gguf`.",
        ),
        (
            "shop/tiny",
            "there is neither a folder shop/tiny nor an installed model of that name; "
            "check the path, or fetch it with `ecellm models pull shop/tiny`.",
        ),
        ("ecellm-s.partial", "there is no model 'ecellm-s.partial': "),
    ],
)
def test_a_model_that_is_not_here_comes_with_its_cure(
    space: Workspace,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    model: str,
    sentence: str,
) -> None:
    add_model(space.models / "ecellm-s.partial")
    place = tmp_path / "work" / "place"
    (place / "folder").mkdir(parents=True)
    (place / "file.gguf").write_bytes(b"GGUF")
    monkeypatch.chdir(place)
    with pytest.raises(ModelError) as caught:
        resolve(model, space)
    assert sentence in str(caught.value)


def test_an_empty_name_is_not_the_current_folder(
    space: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(add_model(tmp_path / "here"))
    with pytest.raises(ModelError, match=r"there is no model ''"):
        resolve("", space)
    assert resolve(".", space) == Path()


def test_the_users_workspace_is_the_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ECELLM_HOME", str(tmp_path))
    folder = add_model(tmp_path / "models" / "phi-2")
    assert resolve("phi-2") == folder
    assert [m.path for m in installed()] == [folder]


def test_importing_these_modules_is_cheap() -> None:
    code = (
        "import sys, ecellm_mlx.hub.download, ecellm_mlx.models.fingerprint; "
        "print([m for m in ('mlx', 'mlx_lm', 'transformers', 'huggingface_hub', 'numpy') "
        "if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout.strip() == "[]", result.stderr
