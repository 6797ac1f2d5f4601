"""Which files make a model folder, and copies of them. Knows neither hub nor formats."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from ecellm_mlx.errors import ModelError
from ecellm_mlx.files import check_space, new_folder
from ecellm_mlx.models.fingerprint import INDEX, verify_safetensors, weight_files
from ecellm_mlx.models.source import SOURCE

CARD_FILE = "README.md"
# Only the root of a repository: its folders hold other formats (onnx/, original/).
# Only model*: some repositories carry the weights twice (consolidated.safetensors).
WANTED = re.compile(
    r"model[\w.-]*\.safetensors|tokenizer[\w.-]*|\w[\w.-]*\.(json|model|txt|jinja)", re.ASCII
)
UNWANTED = re.compile(r".*\.(bin|pt|pth|gguf|onnx|h5|msgpack|py)(\.index\.json)?")
LEGAL_FILE = re.compile(r"(licen[cs]e|notice|use[_-]policy|copying)[\w.-]*", re.IGNORECASE)


def is_wanted(name: str) -> bool:
    """Whether a file of that name belongs to a model: weights, configuration, tokenizer."""
    return bool(WANTED.fullmatch(name)) and not UNWANTED.fullmatch(name)


def legal_files(folder: Path) -> list[Path]:
    """Licence texts and notices of a base, which travel with what is made of it."""
    return sorted(p for p in folder.iterdir() if p.is_file() and LEGAL_FILE.fullmatch(p.name))


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
        and (is_wanted(path.name) or path.name in (INDEX, SOURCE, CARD_FILE))
    ]
    files = [*weights, *others, *(p for p in legal_files(source) if p not in others)]
    check_space(target, sum(path.stat().st_size for path in files))
    with new_folder(target) as folder:
        for path in files:
            shutil.copyfile(path, folder / path.name)
    return target


def copy_companions(base: Path, folder: Path) -> None:
    """Copy tokenizer, generation settings and licence texts that ``folder`` has none of."""
    written = {path.name for path in folder.iterdir()}
    for path in sorted(base.iterdir()):
        weights = path.name == INDEX or path.suffix == ".safetensors"
        wanted = is_wanted(path.name) and not weights and path.name != SOURCE
        if path.is_file() and wanted and path.name not in written:
            shutil.copyfile(path, folder / path.name)
    for path in legal_files(base):
        if path.name not in written:
            shutil.copyfile(path, folder / path.name)
