"""The adapter that a recipe asks for, on a certain model."""

from __future__ import annotations

from collections.abc import Iterable

from ecellm_mlx.device.backend import nn
from ecellm_mlx.errors import RecipeError
from ecellm_mlx.models import lora
from ecellm_mlx.training.recipe import Recipe


def spec_for(model: nn.Module, recipe: Recipe) -> lora.LoraSpec:
    """Resolve targets and patterns against the layers of ``model``.

    Raises:
        RecipeError: a target names no layer, or a pattern no target; the names that
            exist are listed.
    """
    modules = lora.resolve_targets(model, recipe.targets)
    own: dict[str, lora.Shape] = {}
    used: set[str] = set()
    for name in modules:
        rank_key = lora.pattern_key(recipe.rank_pattern, name)
        alpha_key = lora.pattern_key(recipe.alpha_pattern, name)
        used |= {f"rank_pattern: {rank_key}", f"alpha_pattern: {alpha_key}"}
        rank = recipe.rank if rank_key is None else recipe.rank_pattern[rank_key]
        alpha = recipe.alpha if alpha_key is None else recipe.alpha_pattern[alpha_key]
        if (rank, alpha) != (recipe.rank, recipe.alpha):
            own[name] = lora.Shape(rank, recipe.scale_of(rank, alpha), alpha)
    asked = [f"rank_pattern: {key}" for key in recipe.rank_pattern]
    asked += [f"alpha_pattern: {key}" for key in recipe.alpha_pattern]
    if missing := [item for item in asked if item not in used]:
        raise RecipeError(
            f"{', '.join(missing)} names no layer that targets={','.join(recipe.targets)} "
            "adapts, or comes after a pattern that does",
            expected=", ".join(_short_names(modules)),
            cure="correct the pattern, or add the layer to targets",
        )
    return lora.LoraSpec(recipe.rank, recipe.scale, recipe.dropout, modules, recipe.dora, own)


def _short_names(modules: Iterable[str]) -> list[str]:
    return sorted({name.rsplit(".", 1)[-1] for name in modules})
