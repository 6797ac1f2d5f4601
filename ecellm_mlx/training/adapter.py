"""The adapter that a recipe asks for, on a certain model, and what it keeps in memory.

Gradient checkpointing trades time for memory: each block keeps its input only and runs
again on the way back. The output head is not a block: its logits exist at supervised
positions alone, with or without this. Running again must draw the same dropout: see
``ecellm_mlx.training.dropout``.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ecellm_mlx import device
from ecellm_mlx.device.backend import mx, nn
from ecellm_mlx.errors import RecipeError
from ecellm_mlx.models import lora
from ecellm_mlx.training.recipe import Recipe


def attach(model: nn.Module, recipe: Recipe) -> lora.LoraSpec:
    """Put a fresh adapter on ``model``, which forgets its activations if the recipe says so.

    Raises:
        RecipeError: a target names no layer, or a pattern no target.
    """
    spec = spec_for(model, recipe)
    lora.attach(model, spec, seed=recipe.seed, init=recipe.init)
    if recipe.grad_checkpoint:
        recompute_blocks(model)
    return spec


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


def recompute_blocks(model: nn.Module) -> None:
    """Make every block of ``model`` forget its activations; other models stay as they are.

    Only while training: validation and generation keep nothing anyway.
    """
    for block in model.layers:
        kind = type(block)
        again = device.current().recomputed(kind.__call__)

        def call(
            self: nn.Module,
            *args: Any,
            _once: Any = kind.__call__,
            _again: Any = again,
            **named: Any,
        ) -> mx.array:
            return (_again if self.training else _once)(self, *args, **named)

        # A subclass for this model alone: others of its kind are not touched.
        block.__class__ = type(f"Checkpointed{kind.__name__}", (kind,), {"__call__": call})


def _short_names(modules: Iterable[str]) -> list[str]:
    return sorted({name.rsplit(".", 1)[-1] for name in modules})
