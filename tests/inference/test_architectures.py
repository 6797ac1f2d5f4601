"""Architectures beside Llama, Mistral and Phi: computed right in batches, or refused.

The models are mlx-lm's own classes with small random weights.
"""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import pytest

from ecellm_mlx.device.backend import mx, nn, tree_flatten
from ecellm_mlx.errors import ModelError
from ecellm_mlx.inference import sampling
from ecellm_mlx.inference.decoding import Decoder, Rule
from ecellm_mlx.inference.engine import Engine, Prompt
from ecellm_mlx.inference.requests import context_length

SMALL: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "vocab_size": 128,
    "rms_norm_eps": 1e-5,
    "norm_eps": 1e-5,
    "layer_norm_eps": 1e-5,
    "norm_epsilon": 1e-5,
    "rope_theta": 10_000.0,
    "max_position_embeddings": 256,
    "tie_word_embeddings": True,
    "attention_bias": False,
    "mlp_bias": False,
}
KINDS: dict[str, dict[str, Any]] = {
    "llama": {
        # A window on some layers, shorter than the prompts.
        "sliding_window": 8,
        "layer_types": ["full_attention", "sliding_attention"] * 2,
    },
    "qwen2": {},
    "qwen3": {},
    "gemma": {},
    "gemma2": {
        "attn_logit_softcapping": 50.0,
        "final_logit_softcapping": 30.0,
        "query_pre_attn_scalar": 8.0,
    },
    "gemma3_text": {
        "sliding_window": 8,
        "sliding_window_pattern": 2,
        "query_pre_attn_scalar": 8.0,
        "rope_global_base_freq": 10_000.0,
        "rope_local_base_freq": 10_000.0,
    },
    "phi3": {"rope_scaling": None, "original_max_position_embeddings": 256},
    "starcoder2": {},
    "granite": {
        "logits_scaling": 3.0,
        "attention_multiplier": 0.3,
        "embedding_multiplier": 2.0,
        "residual_multiplier": 0.5,
    },
    "olmo2": {},
}


# Its attention does not broadcast a mask of one row each.
REFUSED = "gemma2"


def build(kind: str) -> nn.Module:
    module = importlib.import_module(f"mlx_lm.models.{kind}")
    args = module.ModelArgs.from_dict({"model_type": kind, **SMALL, **KINDS[kind]})
    mx.random.seed(3)
    model = module.Model(args)
    grown = [(n, mx.random.normal(w.shape) * 0.3) for n, w in tree_flatten(model.parameters())]
    model.load_weights(grown)
    model.eval()
    return model


def prompts() -> list[Prompt]:
    rng = np.random.default_rng(5)
    head = tuple(rng.integers(3, 128, 12).tolist())
    return [
        Prompt((*head, *rng.integers(3, 128, n).tolist()), str(n % 2)) for n in (2, 30, 9, 21)
    ]


@pytest.mark.usefixtures("each_path")
@pytest.mark.parametrize("kind", sorted(set(KINDS) - {REFUSED}))
def test_batches_equal_the_plain_model(kind: str) -> None:
    model = build(kind)
    rows = prompts()
    engine = Engine(model, batch_size=4)
    (batch,) = engine.prefill(rows)
    decoder = Decoder(engine)
    decoder.add(batch, [Rule(i, sampling.greedy, frozenset(), 12) for i in batch.indices])
    ended = {step.key: step.tokens for step in decoder.run() if step.done}
    for index, row in enumerate(rows):
        sequence = list(row.tokens)
        for token in ended[index]:
            logits = np.array(model(mx.array(sequence)[None])[0, -1])
            # Equal up to rounding: the chosen token is as good as the best.
            assert logits[token] >= logits.max() - 1e-3 * np.abs(logits).max()
            sequence.append(token)


@pytest.mark.usefixtures("each_path")
def test_attention_that_takes_no_mask_of_one_row_each_is_refused() -> None:
    with pytest.raises(ModelError, match="rows of different lengths"):
        Engine(build(REFUSED))


def test_a_window_that_mlx_lm_leaves_out_limits_the_context() -> None:
    first = {"model_type": "mistral", "max_position_embeddings": 32768, "sliding_window": 4096}
    assert context_length(first) == 4096
    assert context_length({**first, "sliding_window": None}) == 32768
    assert context_length({"model_type": "llama"}) is None
    nested = {"model_type": "gemma3", "text_config": {"max_position_embeddings": 99}}
    assert context_length(nested) == 99


def test_another_state_than_keys_and_values_is_refused() -> None:
    module = importlib.import_module("mlx_lm.models.mamba")
    args = module.ModelArgs(
        model_type="mamba", vocab_size=64, hidden_size=16, intermediate_size=32, state_size=4,
        num_hidden_layers=2, conv_kernel=4, use_bias=False, use_conv_bias=True,
        time_step_rank=2,
    )  # fmt: skip
    with pytest.raises(ModelError, match="cannot be batched"):
        Engine(module.Model(args))
