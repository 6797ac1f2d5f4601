"""The tokenizer of a model folder. Loads no mlx."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from ecellm_mlx.errors import ModelError


def load_tokenizer(path: Path) -> Any:
    """The Hugging Face tokenizer of a model folder.

    Raises:
        ModelError: its files are missing or damaged.
    """
    # transformers warns that PyTorch is missing; here that is no shortcoming.
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    from transformers import AutoTokenizer

    if not any((path / name).exists() for name in ("tokenizer.json", "tokenizer.model")):
        raise ModelError(
            f"{path} has no tokenizer",
            expected="tokenizer.json or tokenizer.model",
            cure="pull or import the model again",
        )
    try:
        return AutoTokenizer.from_pretrained(path, local_files_only=True)
    except Exception as error:
        raise ModelError(
            f"the tokenizer in {path} cannot be loaded",
            got=str(error).splitlines()[0] if str(error) else type(error).__name__,
            cure="pull or import the model again",
        ) from error
