"""Recipes: every shipped one loads, and all problems are reported at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from ecellm_mlx.errors import RecipeError
from ecellm_mlx.settings import as_text
from ecellm_mlx.training import recipe

pytestmark = pytest.mark.unit


@pytest.mark.parametrize("name", recipe.names())
def test_every_recipe_loads(name: str) -> None:
    assert recipe.read(name) == recipe.from_values(recipe.read(name).to_dict())


def test_overrides_are_parsed_by_type() -> None:
    settings = recipe.read(
        None, ["rank=8", "dora=true", "targets=q_proj, lm_head", "epochs=0.5"]
    )
    assert (settings.rank, settings.dora, settings.epochs) == (8, True, 0.5)
    assert settings.targets == ["q_proj", "lm_head"]


def test_all_problems_together() -> None:
    with pytest.raises(RecipeError) as caught:
        recipe.read(None, ["rank=two", "sed=1", "nonsense", "dropout=1.5", "bits=3"])
    message = str(caught.value)
    for part in ("rank='two'", "'sed'", "'nonsense'", "dropout", "bits"):
        assert part in message


@pytest.mark.parametrize(
    ("text", "message"), [("rank = ", "cannot be read"), ("rank = 1.5", "rank=1.5")]
)
def test_broken_files(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(RecipeError, match=message):
        recipe.read(str(path))


def test_unknown_recipe_lists_those_that_exist() -> None:
    with pytest.raises(RecipeError, match="smollm2"):
        recipe.read("no-such-recipe")


def test_scale() -> None:
    assert recipe.Recipe(rank=4, alpha=16).scale == 4
    assert recipe.Recipe(rank=4, alpha=16, rslora=True).scale == 8


PAPER = {
    "rank": 16,
    "alpha": 16.0,
    "dropout": 0.1,
    "rank_pattern": {},
    "alpha_pattern": {},
    "dora": False,
    "rslora": False,
    "init": "peft",
    "learning_rate": 1e-4,
    "schedule": "cosine",
    "warmup_ratio": 0.05,
    "weight_decay": 0.0,
    "clip_norm": 1.0,
    "epochs": 3.0,
    "max_steps": 0,
    "batch_size": 128,
    "micro_batch_size": 1,
    "max_seq_length": 2048,
    "loss_weighting": "microbatch",
    "order": "shuffled",
    "bits": 0,
    "eval_every": 0,
    "save_every": 0,
}
LLAMA_TARGETS = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
PAPER_TARGETS = {
    "ecellm-s": {"q_proj", "k_proj", "v_proj", "dense", "fc1", "fc2", "lm_head"},
    "ecellm-m": LLAMA_TARGETS | {"lm_head"},
    "ecellm-l": LLAMA_TARGETS | {"lm_head"},
}


@pytest.mark.parametrize("name", list(PAPER_TARGETS))
def test_presets_are_the_paper_s_and_laptops_change_only_what_they_say(name: str) -> None:
    preset, laptop = recipe.read(name), recipe.read(f"{name}-laptop")
    assert {key: getattr(preset, key) for key in PAPER} == PAPER
    assert set(preset.targets) == PAPER_TARGETS[name]
    changed = {k for k, v in laptop.to_dict().items() if v != preset.to_dict()[k]}
    memory, course = {"bits", "grad_checkpoint"}, {"epochs", "loss_weighting", "order"}
    assert changed == memory | course | {"save_every", "eval_every"}
    assert (laptop.bits, laptop.grad_checkpoint, laptop.micro_batch_size) == (4, True, 1)


@pytest.mark.parametrize("name", recipe.names())
def test_texts_of_settings_are_what_set_takes(name: str) -> None:
    values = recipe.read(name, ["rank_pattern=lm_head:8,q_proj:4"])
    texts = [f"{key}={as_text(value)}" for key, value in values.to_dict().items()]
    assert recipe.read(None, texts) == values


@pytest.mark.parametrize("key", ["learning_rate", "alpha", "epochs", "clip_norm"])
@pytest.mark.parametrize("value", ["inf", "nan"])
def test_numbers_are_finite(key: str, value: str) -> None:
    with pytest.raises(RecipeError, match=f"{key} must be a finite number"):
        recipe.read(None, [f"{key}={value}"])


def test_a_folder_does_not_hide_the_recipe_of_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run is easily called after its recipe, in the folder where one works."""
    monkeypatch.chdir(tmp_path)
    expected = recipe.read("ecellm-s")
    (tmp_path / "ecellm-s").mkdir()
    assert recipe.read("ecellm-s") == expected
    (tmp_path / "other").mkdir()
    with pytest.raises(RecipeError, match="there is no recipe 'other'"):
        recipe.read("other")
