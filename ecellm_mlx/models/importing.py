"""Copy a model folder into the workspace, after proof that it can be used here."""

from __future__ import annotations

import shutil
from pathlib import Path

from ecellm_mlx.errors import ModelError
from ecellm_mlx.export import card
from ecellm_mlx.hub.client import is_wanted
from ecellm_mlx.models.fingerprint import INDEX, verify_safetensors, weight_files
from ecellm_mlx.models.source import SOURCE

from converters.folders import check_space, new_folder


def copy_folder(source: Path, target: Path) -> Path:
    """Copy the files of a model in MLX or Hugging Face layout that a model needs.

    Weights are checked to be whole, and the architecture to be one that loads; the
    folder's own note on its origin and its licence texts come along.

    Args:
        source: with ``config.json``, safetensors and a tokenizer.
        target: a folder that does not exist yet.

    Raises:
        ModelError: the folder is no model, is damaged or of an unknown architecture.
        ConversionError: ``target`` exists, or the disk is full.
    """
    from ecellm_mlx.models import loading

    weights = weight_files(source)
    for path in weights:
        verify_safetensors(path)
    loading.open_lazily(source)
    if not any((source / name).exists() for name in ("tokenizer.json", "tokenizer.model")):
        raise ModelError(
            f"{source} has no tokenizer",
            expected="tokenizer.json or tokenizer.model",
            cure="copy the tokenizer of its base there first",
        )
    others = [
        path
        for path in source.iterdir()
        if path.is_file()
        and path.suffix != ".safetensors"
        and (is_wanted(path.name) or path.name in (INDEX, SOURCE, card.CARD_FILE))
    ]
    files = [*weights, *others, *(p for p in card.legal_files(source) if p not in others)]
    check_space(target, sum(path.stat().st_size for path in files))
    with new_folder(target) as folder:
        for path in files:
            shutil.copyfile(path, folder / path.name)
    return target
