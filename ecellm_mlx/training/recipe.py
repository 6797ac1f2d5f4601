"""Training settings: declared once, typed and documented here.

Recipe files, ``--set key=value``, the TUI's form and the reference page all
derive from ``Recipe``. Reading a recipe reports every contradiction at once. The
defaults are the paper's numbers (eCeLLM, arXiv 2402.08831, section 4 and its released
scripts) with weighting by tokens, rows in length buckets, and the blocks as targets;
``recipes/*.toml`` say what they change.
"""

from __future__ import annotations

import math
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from importlib import resources
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from ecellm_mlx.errors import RecipeError

CHOICES: dict[str, tuple[str, ...]] = {
    "init": ("peft", "mlx-lm"),
    "schedule": ("cosine", "linear", "constant"),
    "loss_weighting": ("token", "microbatch"),
    "order": ("bucketed", "shuffled"),
}


def setting(default: Any, doc: str) -> Any:
    """A field with its one-line explanation."""
    if isinstance(default, list | dict):
        return field(default_factory=lambda: type(default)(default), metadata={"doc": doc})
    return field(default=default, metadata={"doc": doc})


@dataclass(frozen=True)
class Recipe:
    """Every setting of a training run."""

    rank: int = setting(16, "rank r of the LoRA matrices")
    alpha: float = setting(16.0, "LoRA alpha; the update is scaled by alpha / rank")
    dropout: float = setting(0.1, "dropout on the input of every LoRA branch")
    targets: list[str] = setting(
        ["all-linear"],
        "layers to adapt, by name (q_proj, lm_head, embed_tokens, …) or whole path; "
        "all-linear is each linear layer of the blocks",
    )
    dora: bool = setting(False, "train DoRA: magnitude and direction of each weight apart")
    rslora: bool = setting(False, "scale by alpha / sqrt(rank) instead of alpha / rank")
    init: str = setting(
        "peft",
        "initial weights as that library draws them; they differ for embeddings only, "
        "where PEFT starts with A zero and B normal",
    )
    rank_pattern: dict[str, int] = setting(
        {}, "ranks of single layers, by name or regular expression, as in PEFT"
    )
    alpha_pattern: dict[str, float] = setting(
        {}, "alphas of single layers, by name or regular expression, as in PEFT"
    )
    learning_rate: float = setting(1e-4, "peak learning rate")
    schedule: str = setting("cosine", "course of the learning rate after the warm-up")
    warmup_ratio: float = setting(0.05, "share of all steps spent on linear warm-up")
    weight_decay: float = setting(0.0, "AdamW's decoupled weight decay")
    clip_norm: float = setting(1.0, "clip the global gradient norm to this; 0 is off")
    epochs: float = setting(3.0, "passes over the training rows")
    max_steps: int = setting(0, "stop after this many optimizer steps; 0 follows epochs")
    batch_size: int = setting(128, "rows of one optimizer step")
    micro_batch_size: int = setting(4, "rows computed at once; batch_size is their sum")
    max_seq_length: int = setting(2048, "cut rows to this many tokens, from the right")
    loss_weighting: str = setting(
        "token", "weigh a step's rows by supervised tokens, or every micro-batch the same"
    )
    order: str = setting("bucketed", "rows of similar length together, or purely shuffled")
    grad_checkpoint: bool = setting(False, "recompute activations to save memory")
    bits: int = setting(0, "quantize the base to 4 or 8 bits at load (QLoRA); 0 keeps it")
    seed: int = setting(42, "seed of initialisation, row order and dropout")
    eval_every: int = setting(0, "validate every so many steps; 0 is once an epoch")
    save_every: int = setting(0, "checkpoint every so many steps; 0 is once an epoch")
    keep_checkpoints: int = setting(2, "how many checkpoints to keep")
    early_stop_patience: int = setting(
        0, "stop after this many validations without improvement; 0 never stops early"
    )
    max_skipped_steps: int = setting(
        5, "fail after this many steps in a row whose loss or gradient is not finite"
    )
    sample_every: int = setting(
        0, "answer a few validation rows every so many steps, to look at; 0 never does"
    )
    samples: int = setting(3, "how many rows to answer then")

    def __post_init__(self) -> None:
        problems = list(_contradictions(self))
        if problems:
            raise RecipeError(
                "; ".join(problems), cure="correct the recipe or the --set options"
            )

    @property
    def scale(self) -> float:
        """The factor on B·A: alpha / rank, or alpha / √rank for rsLoRA."""
        return self.scale_of(self.rank, self.alpha)

    def scale_of(self, rank: int, alpha: float) -> float:
        """The factor on B·A of a layer with a rank and an alpha of its own."""
        return alpha / (rank**0.5 if self.rslora else rank)

    def to_dict(self) -> dict[str, Any]:
        """All settings, as they go into ``job.json``."""
        return asdict(self)


def read(name_or_path: str | None = None, overrides: Iterable[str] = ()) -> Recipe:
    """Read a recipe by name or file, then apply ``key=value`` overrides.

    Args:
        name_or_path: a name from ``names()``, a TOML file, or None for the defaults.
        overrides: strings of the form ``key=value``; lists are comma separated.

    Raises:
        RecipeError: for all unknown keys, wrong types and contradictions together.
    """
    values = _file_values(name_or_path) if name_or_path else {}
    problems: list[str] = []
    for item in overrides:
        key, separator, text = item.partition("=")
        if not separator:
            problems.append(f"--set {item!r} is not of the form key=value")
        else:
            values[key.strip()] = text.strip()
    return from_values(values, problems)


def from_values(values: Mapping[str, Any], problems: list[str] | None = None) -> Recipe:
    """Build a recipe from raw values; text is parsed by each setting's type."""
    problems = problems if problems is not None else []
    hints = get_type_hints(Recipe)
    parsed: dict[str, Any] = {}
    for key, value in values.items():
        if key not in hints:
            problems.append(f"unknown setting {key!r} (known: {', '.join(hints)})")
            continue
        try:
            parsed[key] = parse_value(hints[key], value)
        except (ValueError, TypeError):
            problems.append(f"{key}={value!r} is not {_type_words(hints[key])}")
    try:
        recipe = Recipe(**parsed)
    except RecipeError as error:
        problems.append(error.what)
    if problems:
        raise RecipeError("; ".join(problems), cure="correct the recipe or the --set options")
    return recipe


def names() -> list[str]:
    """Names of the recipes that come with the package."""
    folder = resources.files("ecellm_mlx.recipes")
    return sorted(f.name[:-5] for f in folder.iterdir() if f.name.endswith(".toml"))


def describe() -> list[tuple[str, str, Any, str]]:
    """For forms and pages: (key, type in words, default, explanation) of every setting."""
    defaults, hints = Recipe(), get_type_hints(Recipe)
    return [
        (
            f.name,
            _type_words(hints[f.name], f.name),
            getattr(defaults, f.name),
            f.metadata["doc"],
        )
        for f in fields(Recipe)
    ]


def parse_value(hint: Any, value: Any) -> Any:
    """``value`` as the type ``hint``; text is parsed, other types must match.

    Raises:
        ValueError, TypeError: the value does not fit.
    """
    if hint is bool:
        if isinstance(value, str):
            return (
                {"true": True, "false": False}[value.lower()]
                if value.lower()
                in (
                    "true",
                    "false",
                )
                else _reject(value)
            )
        return value if isinstance(value, bool) else _reject(value)
    if hint is int:
        return int(value) if not isinstance(value, bool | float) else _reject(value)
    if hint is float:
        return float(value) if not isinstance(value, bool) else _reject(value)
    if get_origin(hint) is dict:
        return _parse_pattern(get_args(hint)[1], value)
    if get_args(hint):
        parts = value.split(",") if isinstance(value, str) else list(value)
        parts = [part.strip() if isinstance(part, str) else _reject(part) for part in parts]
        return [part for part in parts if part]
    return value if isinstance(value, str) else _reject(value)


def as_text(value: Any) -> str:
    """A value as ``--set`` takes it: the inverse of ``parse_value``."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Mapping):
        return ",".join(f"{name}:{number}" for name, number in value.items())
    if isinstance(value, list):
        return ",".join(value)
    return str(value)


def _parse_pattern(kind: Any, value: Any) -> dict[str, Any]:
    """``{"lm_head": 8}``, or the same as text: ``lm_head:8,q_proj:4``."""
    if isinstance(value, str):
        pairs = []
        for item in filter(None, (part.strip() for part in value.split(","))):
            name, separator, number = item.rpartition(":")
            pairs.append((name.strip(), number) if separator else _reject(item))
        value = dict(pairs)
    if not isinstance(value, Mapping):
        _reject(value)
    parsed = {str(name): parse_value(kind, number) for name, number in value.items()}
    for name in parsed:
        try:
            re.compile(name)
        except re.error as error:
            raise ValueError(f"{name!r}: {error}") from None
    return parsed


def _file_values(name_or_path: str) -> dict[str, Any]:
    path = Path(name_or_path)
    try:
        # A folder may have a recipe's name: a run is easily called after its recipe.
        if path.suffix == ".toml" or path.is_file():
            return tomllib.loads(path.read_text(encoding="utf-8"))
        if name_or_path in names():
            source = resources.files("ecellm_mlx.recipes") / f"{name_or_path}.toml"
            return tomllib.loads(source.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise RecipeError(f"{path}: the recipe cannot be read", got=str(error)) from None
    raise RecipeError(
        f"there is no recipe {name_or_path!r}",
        expected=f"a TOML file or one of {', '.join(names())}",
    )


def _contradictions(r: Recipe) -> Iterable[str]:
    numbers = {f.name: getattr(r, f.name) for f in fields(r)}
    for key, value in numbers.items():
        if isinstance(value, float) and not math.isfinite(value):
            yield f"{key} must be a finite number, not {value}"
    for key in (
        "rank",
        "batch_size",
        "micro_batch_size",
        "keep_checkpoints",
        "max_skipped_steps",
        "samples",
    ):
        if getattr(r, key) < 1:
            yield f"{key} must be at least 1, not {getattr(r, key)}"
    for key in (
        "max_steps",
        "eval_every",
        "save_every",
        "early_stop_patience",
        "sample_every",
        "clip_norm",
        "weight_decay",
        "seed",
    ):
        if getattr(r, key) < 0:
            yield f"{key} must not be negative, not {getattr(r, key)}"
    for key in ("alpha", "learning_rate", "epochs"):
        if not getattr(r, key) > 0:
            yield f"{key} must be positive, not {getattr(r, key)}"
    for name, rank in r.rank_pattern.items():
        if rank < 1:
            yield f"rank_pattern: the rank of {name} must be at least 1, not {rank}"
    for name, alpha in r.alpha_pattern.items():
        if not alpha > 0:
            yield f"alpha_pattern: the alpha of {name} must be positive, not {alpha}"
    if not 0 <= r.dropout < 1:
        yield f"dropout must be at least 0 and below 1, not {r.dropout}"
    if not 0 <= r.warmup_ratio <= 1:
        yield f"warmup_ratio must be between 0 and 1, not {r.warmup_ratio}"
    if r.max_seq_length < 8:
        yield f"max_seq_length must be at least 8, not {r.max_seq_length}"
    if r.bits not in (0, 4, 8):
        yield f"bits must be 0, 4 or 8, not {r.bits}"
    if not r.targets:
        yield "targets must name at least one layer"
    for key, allowed in CHOICES.items():
        if getattr(r, key) not in allowed:
            yield f"{key} must be one of {', '.join(allowed)}, not {getattr(r, key)!r}"
    if r.micro_batch_size > r.batch_size:
        yield (
            f"micro_batch_size ({r.micro_batch_size}) must not exceed "
            f"batch_size ({r.batch_size})"
        )
    elif r.micro_batch_size >= 1 and r.batch_size % r.micro_batch_size:
        yield (
            f"batch_size ({r.batch_size}) must be a multiple of "
            f"micro_batch_size ({r.micro_batch_size})"
        )


def _type_words(hint: Any, key: str = "") -> str:
    if key in CHOICES:
        return "one of " + ", ".join(CHOICES[key])
    if get_origin(hint) is dict:
        kind = "whole number" if get_args(hint)[1] is int else "number"
        return f"a {kind} by name, as in lm_head:8,q_proj:4"
    if get_args(hint):
        return "a list of names"
    return {bool: "true or false", int: "a whole number", float: "a number", str: "text"}[hint]


def _reject(value: Any) -> Any:
    raise TypeError(value)
