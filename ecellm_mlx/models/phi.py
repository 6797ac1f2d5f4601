"""mlx-lm's Phi, with two kinds of checkpoint that mlx-lm itself does not read.

Phi-2's old layout (``transformer.h.N.mixer.Wqkv``), and checkpoints whose output layer
is tied to the embedding: mlx-lm's Phi has a weight of its own there.
"""

from __future__ import annotations

from typing import Any

from mlx_lm.models import phi  # noqa: TID251

from ecellm_mlx.device.backend import mx

from converters import phi_layout


class Model(phi.Model):
    """mlx-lm's model; only the names of weights are looked at before they are loaded."""

    def sanitize(self, weights: dict[str, mx.array]) -> dict[str, mx.array]:
        """Weights under native names, with an output layer."""
        attention = self.layers[0].self_attn
        sizes = [attention[name].weight.shape[0] for name in ("q_proj", "k_proj", "v_proj")]
        weights = phi_layout.native_weights(weights, sizes)
        if self.args.tie_word_embeddings and "lm_head.weight" not in weights:
            weights["lm_head.weight"] = weights["model.embed_tokens.weight"]
        return weights


class ModelArgs(phi.ModelArgs):
    """mlx-lm's settings, and whether the output layer is the embedding."""

    tie_word_embeddings = False

    @classmethod
    def from_dict(cls, params: dict[str, Any]) -> ModelArgs:
        """Settings from ``config.json``; unknown keys are left out."""
        args: ModelArgs = super().from_dict(params)
        args.tie_word_embeddings = bool(params.get("tie_word_embeddings", False))
        return args


def classes(config: dict[str, Any]) -> tuple[type[Model], type[ModelArgs]]:
    """What mlx-lm's loader asks for."""
    return Model, ModelArgs
