"""Training settings: declared once, typed and documented here.

Recipe files, ``--set key=value``, the TUI's form and the reference page all derive from
``Recipe`` (``ecellm_mlx.settings``). Reading a recipe reports every contradiction at once.
The defaults are the paper's numbers (eCeLLM, arXiv 2402.08831, section 4 and its released
scripts) with weighting by tokens, rows in length buckets, and the blocks as targets;
``recipes/*.toml`` say what they change.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from ecellm_mlx import settings
from ecellm_mlx.errors import RecipeError
from ecellm_mlx.models.initialisations import Init
from ecellm_mlx.settings import setting

PATTERN = "lm_head:8,q_proj:4"


@dataclass(frozen=True)
class Recipe:
    """Every setting of a training run."""

    rank: int = setting(16, "rank r of the LoRA matrices", at_least=1)
    alpha: float = setting(16.0, "LoRA alpha; the update is scaled by alpha / rank", above=0)
    dropout: float = setting(
        0.1, "dropout on the input of every LoRA branch", at_least=0, below=1
    )
    targets: list[str] = setting(
        ["all-linear"],
        "layers to adapt, by name (q_proj, lm_head, embed_tokens, …) or whole path; "
        "all-linear is each linear layer of the blocks",
    )
    dora: bool = setting(False, "train DoRA: magnitude and direction of each weight apart")
    rslora: bool = setting(False, "scale by alpha / sqrt(rank) instead of alpha / rank")
    init: Init = setting(
        "peft",
        "initial weights as that library draws them; they differ for embeddings only, "
        "where PEFT starts with A zero and B normal",
    )
    rank_pattern: dict[str, int] = setting(
        {}, "ranks of single layers, by name or regular expression, as in PEFT", example=PATTERN
    )
    alpha_pattern: dict[str, float] = setting(
        {},
        "alphas of single layers, by name or regular expression, as in PEFT",
        example=PATTERN,
    )
    learning_rate: float = setting(1e-4, "peak learning rate", above=0)
    schedule: Literal["cosine", "linear", "constant"] = setting(
        "cosine", "course of the learning rate after the warm-up"
    )
    warmup_ratio: float = setting(
        0.05, "share of all steps spent on linear warm-up", at_least=0, at_most=1
    )
    weight_decay: float = setting(0.0, "AdamW's decoupled weight decay", at_least=0)
    clip_norm: float = setting(
        1.0, "clip the global gradient norm to this; 0 is off", at_least=0
    )
    epochs: float = setting(3.0, "passes over the training rows", above=0)
    max_steps: int = setting(
        0, "stop after this many optimizer steps; 0 follows epochs", at_least=0
    )
    batch_size: int = setting(128, "rows of one optimizer step", at_least=1)
    micro_batch_size: int = setting(
        4, "rows computed at once; batch_size is their sum", at_least=1
    )
    max_seq_length: int = setting(
        2048, "cut rows to this many tokens, from the right", at_least=8
    )
    loss_weighting: Literal["token", "microbatch"] = setting(
        "token", "weigh a step's rows by supervised tokens, or every micro-batch the same"
    )
    order: Literal["bucketed", "shuffled"] = setting(
        "bucketed", "rows of similar length together, or purely shuffled"
    )
    grad_checkpoint: bool = setting(False, "recompute activations to save memory")
    bits: int = setting(0, "quantize the base to 4 or 8 bits at load (QLoRA); 0 keeps it")
    seed: int = setting(42, "seed of initialisation, row order and dropout", at_least=0)
    eval_every: int = setting(0, "validate every so many steps; 0 is once an epoch", at_least=0)
    save_every: int = setting(
        0, "checkpoint every so many steps; 0 is once an epoch", at_least=0
    )
    keep_checkpoints: int = setting(2, "how many checkpoints to keep", at_least=1)
    early_stop_patience: int = setting(
        0,
        "stop after this many validations without improvement; 0 never stops early",
        at_least=0,
    )
    max_skipped_steps: int = setting(
        5,
        "fail after this many steps in a row whose loss or gradient is not finite",
        at_least=1,
    )
    sample_every: int = setting(
        0,
        "answer a few validation rows every so many steps, to look at; 0 never does",
        at_least=0,
    )
    samples: int = setting(3, "how many rows to answer then", at_least=1)

    def __post_init__(self) -> None:
        problems = [*settings.problems(self), *_contradictions(self)]
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


def from_values(values: Mapping[str, Any], problems: Iterable[str] = ()) -> Recipe:
    """Build a recipe from raw values; text is parsed by each setting's type.

    Raises:
        RecipeError: for all that is wrong together, ``problems`` first.
    """
    parsed, wrong = settings.parse(Recipe, values)
    wrong = [*problems, *wrong]
    try:
        recipe = Recipe(**parsed)
    except RecipeError as error:
        wrong.append(error.what)
    if wrong:
        raise RecipeError("; ".join(wrong), cure="correct the recipe or the --set options")
    return recipe


def names() -> list[str]:
    """Names of the recipes that come with the package."""
    folder = resources.files("ecellm_mlx.recipes")
    return sorted(f.name[:-5] for f in folder.iterdir() if f.name.endswith(".toml"))


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
    for key in ("rank_pattern", "alpha_pattern"):
        for name in getattr(r, key):
            try:
                re.compile(name)
            except re.error as error:
                yield f"{key}: {name!r} is no regular expression ({error})"
    for name, rank in r.rank_pattern.items():
        if rank < 1:
            yield f"rank_pattern: the rank of {name} must be at least 1, not {rank}"
    for name, alpha in r.alpha_pattern.items():
        if not alpha > 0:
            yield f"alpha_pattern: the alpha of {name} must be positive, not {alpha}"
    if r.bits not in (0, 4, 8):
        yield f"bits must be 0, 4 or 8, not {r.bits}"
    if not r.targets:
        yield "targets must name at least one layer"
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
