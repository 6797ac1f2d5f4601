"""Plan a training run before it starts: does it fit, how long will it take, what helps.

Reads rows and, where the base is installed, its tokenizer; loads no weights.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ecellm_mlx import device
from ecellm_mlx.device import runtime
from ecellm_mlx.device.traits import Traits
from ecellm_mlx.errors import JobError, ModelError
from ecellm_mlx.models import registry, shape
from ecellm_mlx.models.config import read_config
from ecellm_mlx.models.tokenizer import load_tokenizer
from ecellm_mlx.training import memory
from ecellm_mlx.training.memory import Prediction, Workload
from ecellm_mlx.training.recipe import Recipe

from converters import architectures

MAC_SIZES_GB = (8, 16, 24, 32, 64)
# A hundred rows as long as ECInstruct's, (tokens, supervised tokens), and how many
# training rows the paper used.
ECINSTRUCT_LENGTHS = [(230, 8)] * 95 + [(700, 30)] * 4 + [(1100, 60)]
ECINSTRUCT_ROWS = 92_022
# Share of a device's rate at matrix products that training is assumed to reach; not
# measured. Give --tokens-per-second for a time from a real run.
EFFICIENCY = 0.5


@dataclass(frozen=True)
class Plan:
    """What ``ecellm plan`` says. Sizes in GiB, times in seconds."""

    model: str
    device: str
    lengths_from: str
    rows: int
    work: Workload
    prediction: Prediction
    limit_gb: float
    tokens: int
    tokens_per_second: float
    speed_from: str
    macs: dict[int, bool]
    suggestions: list[str] = field(default_factory=list)

    @property
    def fits(self) -> bool:
        """Whether the predicted peak is below the limit of this machine."""
        return self.prediction.peak_gb <= self.limit_gb

    @property
    def seconds(self) -> float:
        """Predicted duration of the run."""
        return self.tokens / self.tokens_per_second

    def to_json(self) -> dict[str, Any]:
        """The document of ``ecellm plan --json``."""
        return {
            "model": self.model,
            "device": self.device,
            "fits": self.fits,
            "limit_gb": round(self.limit_gb, 2),
            **self.prediction.to_json(),
            "rows": self.rows,
            "lengths_from": self.lengths_from,
            "micro_batch": {
                "rows": self.work.rows,
                "tokens": self.work.length,
                "supervised": self.work.supervised,
            },
            "tokens": self.tokens,
            "tokens_per_second": round(self.tokens_per_second, 1),
            "speed_from": self.speed_from,
            "seconds": round(self.seconds),
            "macs": {str(size): fits for size, fits in self.macs.items()},
            "suggestions": self.suggestions,
        }


def plan_training(
    model: str,
    recipe: Recipe,
    data: Path | None,
    *,
    tokens_per_second: float | None = None,
) -> Plan:
    """Plan training ``model`` by ``recipe`` on the rows of ``data``.

    Args:
        model: registry name (installed or not) or folder.
        recipe: the settings.
        data: folder with ``train.jsonl``; rows of ECInstruct's lengths when not given.
        tokens_per_second: speed to assume; derived from a measured rate of matrix
            products when not given.

    Raises:
        ModelError, DataError: the model or the rows cannot be read, or the architecture
            cannot be trained.
    """
    base = shape.of(model)
    _check_trained(base)
    lengths, source = row_lengths(model, data)
    traits = device.expected()
    work = memory.workload(lengths, recipe)
    prediction = memory.predict(base, recipe, work, traits)
    limit = runtime.memory_limit_gb()
    speed, speed_from = tokens_per_second, "given"
    if speed is None:
        gflops = runtime.blas_gflops()
        speed = gflops * 1e9 * EFFICIENCY / work_per_token(base)
        speed_from = f"{gflops:.0f} GFLOP/s measured here, training assumed to reach half"
    rows = len(lengths) if data else ECINSTRUCT_ROWS
    mean = sum(min(t, recipe.max_seq_length) for t, _ in lengths) / len(lengths)
    seen = recipe.max_steps * recipe.batch_size or rows * recipe.epochs
    fits = prediction.peak_gb <= limit
    return Plan(
        model=model,
        device=traits.name,
        lengths_from=source,
        rows=rows,
        work=work,
        prediction=prediction,
        limit_gb=limit,
        tokens=round(seen * mean),
        tokens_per_second=speed,
        speed_from=speed_from,
        macs=macs(base, recipe, work),
        suggestions=[] if fits else suggestions(base, recipe, lengths, limit, traits),
    )


def macs(base: shape.ModelShape, recipe: Recipe, work: Workload) -> dict[int, bool]:
    """Whether the run fits on Macs, by their memory (GB)."""
    needed = memory.predict(base, recipe, work, device.METAL).peak_gb
    return {size: needed <= runtime.metal_limit_gb(size) for size in MAC_SIZES_GB}


def suggestions(
    base: shape.ModelShape,
    recipe: Recipe,
    lengths: list[tuple[int, int]],
    limit_gb: float,
    traits: Traits,
) -> list[str]:
    """Changes, the least costly first and each on top of those before, until it fits."""
    changes: list[tuple[str, Any]] = []
    size = recipe.micro_batch_size
    while size > 1:
        size = next(n for n in range(size // 2, 0, -1) if recipe.batch_size % n == 0)
        changes.append(("micro_batch_size", size))
    changes.append(("grad_checkpoint", True))
    if not traits.dequantizes:
        changes += [("bits", bits) for bits in (8, 4) if not recipe.bits or bits < recipe.bits]
    changes += [("max_seq_length", n) for n in (1024, 512) if n < recipe.max_seq_length]
    taken: dict[str, Any] = {}
    for key, value in changes:
        taken[key] = value
        tried = replace(recipe, **taken)
        peak = memory.predict(base, tried, memory.workload(lengths, tried), traits)
        if peak.peak_gb <= limit_gb:
            flags = " ".join(f"--set {k}={str(v).lower()}" for k, v in taken.items())
            return [f"{flags} (predicted peak {peak.peak_gb:.1f} GB)"]
    return ["no setting makes it fit here: take a smaller model or a machine with more memory"]


def work_per_token(base: shape.ModelShape) -> float:
    """Floating point operations of a token: forward, and backward to the inputs only."""
    return 4.0 * base.block_parameters


def row_lengths(model: str, data: Path | None) -> tuple[list[tuple[int, int]], str]:
    """(tokens, supervised tokens) of each training row, and where they come from."""
    if data is None:
        return ECINSTRUCT_LENGTHS, "no data given: rows of ECInstruct's lengths assumed"
    from ecellm_mlx.data import encoding, prompts, rows

    train_rows = rows.load(rows.dataset(data).train)
    try:
        path = registry.resolve(model)
    except ModelError:
        path = None
    if path is not None:
        config, tokenizer = read_config(path), load_tokenizer(path)
        template = getattr(tokenizer, "chat_template", None)
        frame = prompts.frame_for(
            str(config["model_type"]), template if isinstance(template, str) else None
        )
        encoded = [encoding.encode_row(row, tokenizer, frame, 1 << 30) for row in train_rows]
        return [(len(e.tokens), len(e.target_positions)) for e in encoded], "tokenized rows"
    return estimated_lengths(train_rows), (
        f"{memory.CHARACTERS_PER_TOKEN} characters a token assumed: the model is not installed"
    )


def estimated_lengths(rows: Iterable[Any]) -> list[tuple[int, int]]:
    """Lengths without a tokenizer, from characters."""
    from ecellm_mlx.data import prompts

    ratio = memory.CHARACTERS_PER_TOKEN
    return [
        (
            math.ceil(len(prompts.prompt(row, prompts.Frame("alpaca")) + row.output) / ratio),
            math.ceil(len(row.output) / ratio) + 1,
        )
        for row in rows
    ]


def refuse_what_cannot_fit(model: str, recipe: Recipe, rows: Iterable[Any]) -> None:
    """Refuse a run whose predicted peak is above the memory of this machine.

    Args:
        model: the base.
        recipe: the settings.
        rows: the training rows.

    Raises:
        ModelError: the architecture cannot be trained.
        JobError: with the prediction, the limit and what would fit.
    """
    try:
        base = shape.of(model)
    except ModelError:
        # An architecture of another kind: what is not known is not predicted.
        return
    _check_trained(base)
    traits = device.expected()
    lengths, limit = estimated_lengths(rows), runtime.memory_limit_gb()
    prediction = memory.predict(base, recipe, memory.workload(lengths, recipe), traits)
    if prediction.peak_gb > limit:
        way_out = suggestions(base, recipe, lengths, limit, traits)[0]
        raise JobError(
            f"training {model} by this recipe does not fit into the memory of this machine",
            got=f"a predicted peak of {prediction.peak_gb:.1f} GB",
            expected=f"at most {limit:.1f} GB",
            cure=f"try {way_out}, or start it anyway with --force"
            if way_out.startswith("--set")
            else f"{way_out}, or start it anyway with --force",
        )


def _check_trained(base: shape.ModelShape) -> None:
    if not base.family.trained:
        raise ModelError(
            f"the architecture {base.family.title} cannot be trained yet: its logits are not "
            "what its output head makes of hidden states",
            cure=f"use a {architectures.supported()} model",
        )
