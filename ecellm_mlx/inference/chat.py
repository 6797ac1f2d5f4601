"""A prompt in the words of the model's own chat template."""

from __future__ import annotations

from typing import Any

from ecellm_mlx.errors import UsageError


def as_chat(tokenizer: Any, prompt: str) -> str:
    """``prompt`` as a user's message, up to where the model's answer begins.

    Raises:
        UsageError: the tokenizer has no chat template.
    """
    if not getattr(tokenizer, "chat_template", None):
        raise UsageError(
            "this model has no chat template",
            cure="give the prompt as it stands, not as a chat",
        )
    message = [{"role": "user", "content": prompt}]
    return str(
        tokenizer.apply_chat_template(message, add_generation_prompt=True, tokenize=False)
    )
