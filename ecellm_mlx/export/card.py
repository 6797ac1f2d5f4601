"""Model cards: what an exported folder is, and under which terms it may be used.

A card says what is known and where from: the adapter's own section, the ``job.json``
of its run, the training rows if they are still there and unchanged, and the registry.
What is not known is said to be unknown. Paths of this machine stay out of it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ecellm_mlx.data.prompts import Frame
from ecellm_mlx.errors import DataError
from ecellm_mlx.models.registry import REGISTRY, ModelCard
from ecellm_mlx.models.source import SOURCE

# The hub's identifiers of the licences that the registry names.
LICENCE_IDS = {
    "MIT": "mit",
    "Apache-2.0": "apache-2.0",
    "CC BY 4.0": "cc-by-4.0",
    "Llama 2 Community License": "llama2",
}
# The licence of Llama 2 asks for this sentence in a file of this name.
LLAMA_2 = "llama2"
LLAMA_2_NOTICE = (
    "Llama 2 is licensed under the LLAMA 2 Community License, Copyright (c) Meta Platforms, "
    "Inc. All Rights Reserved.\n"
)


@dataclass(frozen=True)
class Base:
    """What is known of the base: where it is from and its licences, its own first."""

    name: str
    repo: str | None
    licences: tuple[str, ...]

    @property
    def licence_id(self) -> str:
        """The hub's identifier; Llama 2's terms stay on what is built upon it."""
        ids = [LICENCE_IDS.get(name, name) for name in self.licences]
        return LLAMA_2 if LLAMA_2 in ids else (ids[0] if ids else "unknown")


@dataclass(frozen=True)
class Provenance:
    """Everything that a card can say of an exported model or adapter.

    Attributes:
        kind: a key of ``card_text.USAGE``.
        base: the model that was adapted or stored anew.
        frame: the prompt frame that it answers to.
        stored: in words: dtype, bits.
        ecellm: our section of the adapter's configuration; empty without an adapter.
        job: content of the run's ``job.json``, or empty.
        divergence: what re-quantization changed, or None.
        scores: ``metrics.json`` of evaluations.
        file: name of the file that a runtime is pointed at, where there is one.
    """

    kind: str
    base: Base
    frame: Frame
    stored: str
    ecellm: Mapping[str, Any] = field(default_factory=dict)
    job: Mapping[str, Any] = field(default_factory=dict)
    divergence: Mapping[str, Any] | None = None
    scores: tuple[Mapping[str, Any], ...] = ()
    file: str = ""


def base_of(name: str, path: Path | None) -> Base:
    """What the registry, and the folder's note on its origin, say of a base."""
    card = REGISTRY.get(name.partition("@")[0]) or next(
        (c for c in REGISTRY.values() if c.repo == name), None
    )
    if card is None and path is not None:
        card = REGISTRY.get(path.name.partition("@")[0])
    if card is not None:
        return Base(card.name, card.repo, tuple(_licences(card)))
    note: dict[str, Any] = {}
    if path is not None:
        try:
            note = json.loads((path / SOURCE).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            note = {}
    licence = note.get("license")
    # A folder is named by its last part: the rest is this machine's business.
    on_hub = path is None and re.fullmatch(r"[\w.-]+/[\w.@-]+", name)
    label = note.get("repo") or note.get("name") or (name if on_hub else Path(name).name)
    return Base(str(label), note.get("repo"), (licence,) if licence else ())


def read_job(adapter: Path) -> dict[str, Any]:
    """``job.json`` of the run that an adapter folder lies in, or an empty dictionary."""
    for folder in (adapter.parent, adapter.parent.parent):
        try:
            job = json.loads((folder / "job.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if isinstance(job, dict) and job.get("kind") == "train":
            return job
    return {}


def read_scores(evaluation: Path) -> dict[str, Any]:
    """The results of an evaluation run.

    Raises:
        DataError: the folder holds no finished evaluation.
    """
    path = evaluation / "metrics.json"
    try:
        scores = json.loads(path.read_text(encoding="utf-8"))
        scores["decodings"].items()
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise DataError(
            f"{evaluation} holds no finished evaluation",
            expected="the run folder of `ecellm eval`, with metrics.json",
        ) from None
    return dict(scores)


def _licences(card: ModelCard) -> Iterable[str]:
    current: ModelCard | None = card
    while current is not None:
        yield current.licence
        current = REGISTRY.get(current.base) if current.base else None
