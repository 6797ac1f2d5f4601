"""Model cards: what an exported folder is, and under which terms it may be used.

A card says what is known and where from: the adapter's own section, the ``job.json``
of its run, the training rows if they are still there and unchanged, and the registry.
What is not known is said to be unknown. Paths of this machine stay out of it.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ecellm_mlx import __version__
from ecellm_mlx.data import rows
from ecellm_mlx.data.prompts import Frame
from ecellm_mlx.errors import DataError, EcellmError
from ecellm_mlx.export.card_usage import USAGE
from ecellm_mlx.models.registry import REGISTRY, ModelCard
from ecellm_mlx.models.source import SOURCE
from ecellm_mlx.tasks.registry import TASKS

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
        kind: a key of ``USAGE``.
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


def render(facts: Provenance) -> str:
    """The card as Markdown with the hub's front matter."""
    title = "adapter" if facts.kind in ("mlx-adapter", "gguf-adapter") else "model"
    tuned = bool(facts.ecellm or facts.job)
    what = (
        f"A LoRA {title} of {facts.base.name} for e-commerce tasks"
        if title == "adapter"
        else f"{facts.base.name}{', fine-tuned for e-commerce tasks' if tuned else ''}"
    )
    parts = [
        _front_matter(facts, tuned),
        f"# {facts.base.name}: e-commerce {title}\n" if tuned else f"# {facts.base.name}\n",
        f"{what}, {facts.stored}. Written by ecellm-mlx {__version__}.\n",
        "## How to run it\n",
        USAGE[facts.kind].format(
            base=facts.base.repo or facts.base.name, file=facts.file or "FILE"
        ),
        _prompt(facts.frame),
    ]
    if tuned:
        parts += [_data(facts.job), _recipe(facts)]
    if tuned or facts.scores:
        parts.append(_metrics(facts))
    if facts.divergence:
        parts.append(_divergence(facts.divergence))
    parts.append(_licence(facts.base))
    return "\n".join(part for part in parts if part)


def _licences(card: ModelCard) -> Iterable[str]:
    current: ModelCard | None = card
    while current is not None:
        yield current.licence
        current = REGISTRY.get(current.base) if current.base else None


def _front_matter(facts: Provenance, tuned: bool) -> str:
    library = {"mlx": "mlx", "mlx-adapter": "mlx", "hf": "transformers"}
    relation = "finetune"
    if facts.kind.endswith("adapter"):
        relation = "adapter"
    elif not tuned:
        relation = "quantized"
    licence = facts.base.licence_id
    known = licence in LICENCE_IDS.values() or re.fullmatch(r"[a-z0-9.-]+", licence)
    lines = [f"license: {licence if known else 'other'}"]
    if facts.base.repo:
        lines += [f"base_model: {facts.base.repo}", f"base_model_relation: {relation}"]
    if facts.kind in library:
        lines.append(f"library_name: {library[facts.kind]}")
    lines += ["pipeline_tag: text-generation", "language: [en]", "tags: [e-commerce, ecellm]"]
    return "---\n" + "\n".join(lines) + "\n---\n"


def _prompt(frame: Frame) -> str:
    text = frame.render("{instruction}", "{input}", "{options}")
    return (
        "It expects this prompt; the options block is left out where there are none:\n\n"
        f"```text\n{text}```\n"
    )


def _data(job: Mapping[str, Any]) -> str:
    if not job:
        return "## Data\n\nUnknown: the adapter came without its run.\n"
    path = Path(str(job["config"].get("train", "")))
    fingerprint = str(job["fingerprints"].get("train", "unknown"))
    lines = [f"Fingerprint of the training rows: `{fingerprint[:16]}`."]
    try:
        unchanged = path.is_file() and rows.digest([path]) == fingerprint
        found = rows.load(path) if unchanged else []
    except EcellmError:
        found = []
    if found:
        tasks = Counter(row.task for row in found)
        lines.append(
            f"{len(found):,} rows: "
            + ", ".join(f"{name} {count:,}" for name, count in sorted(tasks.items()))
            + "."
        )
        if licences := _row_licences(path):
            lines.append(f"Licences that the rows name: {licences}.")
        else:
            lines.append("The rows name no licence: check that of their source.")
    else:
        lines.append("The file is no longer there as it was, so its rows are not counted.")
    return "## Data\n\n" + "\n".join(lines) + "\n"


def _row_licences(path: Path) -> str:
    """Licences that rows carry, with their counts; only JSON Lines has room for them."""
    counts: Counter[str] = Counter()
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            licence = json.loads(line).get("license")
        except (ValueError, AttributeError):
            return ""
        if licence:
            counts[str(licence)] += 1
    return ", ".join(f"{name} ({count:,})" for name, count in counts.most_common())


def _recipe(facts: Provenance) -> str:
    recipe = facts.ecellm.get("recipe") or facts.job.get("config", {}).get("recipe") or {}
    if not recipe:
        return ""
    table = "\n".join(
        f"| `{key}` | {', '.join(map(str, value)) if isinstance(value, list) else value} |"
        for key, value in recipe.items()
    )
    versions = ", ".join(f"{k} {v}" for k, v in facts.job.get("versions", {}).items())
    return f"## Recipe\n\n| setting | value |\n|---|---|\n{table}\n" + (
        f"\nVersions: {versions}.\n" if versions else ""
    )


def _metrics(facts: Provenance) -> str:
    lines = ["## Metrics\n"]
    metrics = facts.ecellm.get("metrics") or {}
    loss = metrics.get("validation_loss")
    lines.append(
        f"Validation loss {loss:.4f} per supervised token, after {metrics['step']} steps.\n"
        if loss is not None
        else "Validation loss: not computed.\n"
    )
    if not facts.scores:
        lines.append("No evaluation was given to this card.\n")
    for scores in facts.scores:
        lines.append(_score_table(scores))
    return "\n".join(lines)


def _score_table(scores: Mapping[str, Any]) -> str:
    rows_ = []
    for decoding, tasks in scores["decodings"].items():
        for name, settings in tasks.items():
            task = TASKS[name]
            for setting, result in settings.items():
                official, strict = (
                    _number(result[kind].get(task.metric)) for kind in ("official", "strict")
                )
                rows_.append(
                    f"| {name} | {setting} | {decoding} | {task.metric_label} | {official} | "
                    f"{strict} | {result['invalid']} | {result['n']} |"
                )
    subset = " on a subset: not comparable to the paper" if scores.get("subset") else ""
    return (
        f"{scores['n']:,} rows{subset}.\n\n"
        "| task | setting | decoding | metric | official | strict | invalid | n |\n"
        "|---|---|---|---|---|---|---|---|\n" + "\n".join(rows_) + "\n"
    )


def _number(value: Any) -> str:
    return "not computed" if value is None else f"{value:.4f}"


def _divergence(measured: Mapping[str, Any]) -> str:
    own = measured["mean_kl_of_fine_tune"]
    beside = f"; the fine-tune itself moved the base by {own:.4f}" if own is not None else ""
    return (
        "## What quantization changed\n\n"
        f"Mean KL divergence from the unquantized model: {measured['mean_kl']:.4f} nats per "
        f"answer token{beside}. The likeliest token is the same at "
        f"{measured['same_top_token']:.1%} of {measured['positions']:,} positions in "
        f"{measured['prompts']} rows.\n"
    )


def _licence(base: Base) -> str:
    if not base.licences:
        return (
            "## Licence\n\nThe licence of the base is unknown here: find it out before you "
            "share this.\n"
        )
    lines = [f"{base.name}: {base.licences[0]}."]
    lines += [f"It is itself built on a model under: {name}." for name in base.licences[1:]]
    if base.licence_id == LLAMA_2:
        lines.append(
            "Whoever passes this on gives the licence agreement along, keeps the NOTICE file, "
            "and follows the acceptable use policy: https://ai.meta.com/llama/license/."
        )
    lines.append("Training data keep their own licences.")
    return "## Licence\n\n" + " ".join(lines) + "\n"
