"""mlx-lm's Gemma 3, with the scale of its embedding in the model's own precision.

Embeddings are multiplied by the square root of their width. mlx-lm rounds that factor to
bfloat16, as the published weights were trained; transformers rounds it to the dtype that
is computed in. In float32 the two differ by up to 0.4 %, which reaches every logit.
"""

from __future__ import annotations

from typing import Any

from mlx_lm.models import gemma3_text  # noqa: TID251

from ecellm_mlx.device.backend import mx


class Gemma3Model(gemma3_text.Gemma3Model):
    """mlx-lm's body, which is given embeddings that its rounded factor makes right."""

    def __call__(
        self,
        inputs: mx.array,
        cache: Any = None,
        input_embeddings: mx.array | None = None,
    ) -> mx.array:
        """Hidden states (B, T, hidden) of tokens (B, T)."""
        hidden = self.embed_tokens(inputs) if input_embeddings is None else input_embeddings
        if hidden.dtype == mx.float32:
            factor = self.args.hidden_size**0.5
            hidden = hidden * (factor / mx.array(factor, mx.bfloat16).astype(mx.float32))
        return super().__call__(inputs, cache, hidden)


class Model(gemma3_text.Model):
    """mlx-lm's model around that body."""

    def __init__(self, args: gemma3_text.ModelArgs) -> None:
        super().__init__(args)
        self.model = Gemma3Model(args)


class ModelArgs(gemma3_text.ModelArgs):
    """mlx-lm's settings, without those that it would leave out of its computation."""

    @classmethod
    def from_dict(cls, params: dict[str, Any]) -> ModelArgs:
        """Settings from ``config.json``.

        Raises:
            ValueError: logits are capped, or attention sees what comes after.
        """
        for key in (
            "attn_logit_softcapping", "final_logit_softcapping", "use_bidirectional_attention",
        ):  # fmt: skip
            if params.get(key):
                raise ValueError(f"mlx-lm's Gemma 3 has no {key}")
        args: ModelArgs = super().from_dict(params)
        return args


def classes(config: dict[str, Any]) -> tuple[type[Model], type[ModelArgs]]:
    """What mlx-lm's loader asks for."""
    return Model, ModelArgs
