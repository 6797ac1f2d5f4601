"""Recipes: every shipped one loads, and all problems are reported at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from ecellm_mlx.errors import RecipeError
from ecellm_mlx.training import recipe, schedule


@pytest.mark.parametrize("name", recipe.names())
def test_every_recipe_loads(name: str) -> None:
    assert recipe.read(name) == recipe.from_values(recipe.read(name).to_dict())


def test_overrides_are_parsed_by_type() -> None:
    found = recipe.read(None, ["rank=8", "dora=true", "targets=q_proj, lm_head", "epochs=0.5"])
    assert (found.rank, found.dora, found.epochs) == (8, True, 0.5)
    assert found.targets == ["q_proj", "lm_head"]


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


@pytest.mark.parametrize("total", [1, 2, 7, 100])
def test_cosine_equals_transformers(total: int) -> None:
    import torch
    from transformers import get_cosine_schedule_with_warmup

    warmup = schedule.warmup_steps(total, 0.05)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    theirs = get_cosine_schedule_with_warmup(optimizer, warmup, total)
    for step in range(total):
        assert schedule.factor("cosine", step, total, 0.05) == pytest.approx(
            theirs.get_last_lr()[0], abs=1e-12
        )
        optimizer.step()
        theirs.step()
