"""What a conversion needs to know of the base model; the caller finds it out.

The engine builds this from the real base, because names and shapes that are read
there cannot be guessed wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import mlx.core as mx

from converters.adapter import LoraModule
from converters.errors import ConversionError

EMBEDDING, HEAD = "model.embed_tokens", "lm_head"
PEFT_LEAVES = {"lora_a": "lora_A", "lora_b": "lora_B", "m": "lora_magnitude_vector"}


@dataclass(frozen=True)
class Layer:
    """A layer that an adapter can sit on: its weight has shape (out, in).

    An embedding's weight is (vocabulary, dim), and so is its update a·b.
    """

    kind: Literal["linear", "embedding"]
    out: int
    width: int

    def problems(self, name: str, module: LoraModule, *, peft: bool) -> list[str]:
        """Shapes of ``module`` that this layer cannot take, with both shapes.

        With ``peft`` they are told as PEFT stores them: transposed, under its names.
        """
        rank = module.rank
        rows, columns = (
            (self.width, self.out) if self.kind == "linear" else (self.out, self.width)
        )
        expected: list[tuple[str, mx.array, tuple[int, ...]]] = [
            ("lora_a", module.a, (rows, rank)),
            ("lora_b", module.b, (rank, columns)),
        ]
        if module.m is not None:
            expected.append(("m", module.m, (self.out,)))
        return [
            f"{name}.{PEFT_LEAVES[leaf] if peft else leaf} has shape "
            f"{_turned(array.shape, peft)}, and the base needs {_turned(shape, peft)}"
            for leaf, array, shape in expected
            if tuple(array.shape) != shape
        ]


def _turned(shape: Sequence[int], peft: bool) -> tuple[int, ...]:
    return tuple(reversed(shape)) if peft else tuple(shape)


@dataclass(frozen=True)
class Blocks:
    """Where a model keeps its blocks: ``prefix`` is ``model.layers.`` in most."""

    prefix: str
    count: int

    def place(self, module: str) -> tuple[int | None, str]:
        """The block that ``module`` lies in, if any, and its path from there."""
        number, _, path = module.removeprefix(self.prefix).partition(".")
        if not module.startswith(self.prefix) or not number.isdigit():
            return None, module
        return int(number), path


@dataclass(frozen=True)
class BaseModel:
    """A base model as mlx-lm builds it.

    Attributes:
        name: registry name or folder, for messages.
        model_type: architecture in ``config.json``.
        blocks: where its blocks are, and how many.
        modules: path → layer, for all linear and embedding layers that mlx-lm's and
            Hugging Face's model both have, under one name and in one shape.
        differing: mlx-lm's other layers.
        shares_embedding: whether mlx-lm's embedding is the output layer, too, so that an
            update of it acts twice.
        tied_in_peft: whether Hugging Face's model ties its output layer to the embedding.
        read: the stored tensor of that name; None if it is quantized or not there.
        holds: whether the base's tensor of that name is this one, but for rounding to a
            coarser type or to the base's quantization.
    """

    name: str
    model_type: str
    blocks: Blocks
    modules: Mapping[str, Layer]
    differing: frozenset[str]
    shares_embedding: bool
    tied_in_peft: bool
    read: Callable[[str], mx.array | None]
    holds: Callable[[str, mx.array], bool]


def check_fit(
    base: BaseModel,
    modules: Mapping[str, LoraModule],
    source: object,
    *,
    peft: bool = False,
) -> None:
    """Refuse modules that the base does not have, or has in another shape.

    Args:
        base: the base model.
        modules: path in mlx-lm → update.
        source: where they come from, for the message.
        peft: whether that is a PEFT adapter, whose tensors are named and shaped otherwise.

    Raises:
        ConversionError: lists all of them.
    """
    check_known(base, modules, source)
    problems = [
        problem
        for name, module in modules.items()
        for problem in base.modules[name].problems(name, module, peft=peft)
    ]
    if problems:
        raise ConversionError(
            f"{source} does not fit {base.name}: {'; '.join(problems)}; use the base that it "
            "was made for."
        )


def check_known(
    base: BaseModel,
    names: Iterable[str],
    source: object,
    *,
    known: Mapping[str, Layer] | None = None,
) -> None:
    """Refuse names of layers that the base does not have.

    Args:
        base: the base model.
        names: the names to judge.
        source: where they come from, for the message.
        known: the layers under other names than mlx-lm's.

    Raises:
        ConversionError: lists them, and says if the architecture is another one.
    """
    names = list(names)
    known = base.modules if known is None else known
    unknown = [name for name in names if name not in known]
    if not unknown:
        return
    if renamed := [name for name in unknown if name in base.differing]:
        raise ConversionError(
            f"{source} adapts {', '.join(renamed)}, which mlx-lm and Hugging Face name or "
            f"shape differently in {base.model_type}; train without these layers."
        )
    if len(unknown) == len(names):
        example = next((n for n in known if ".layers." in n or ".h." in n), "")
        raise ConversionError(
            f"{source} was made for another architecture than {base.model_type}: it has "
            f"{unknown[0]}, where {base.name} has names like {example}; give the right base "
            "with --base."
        )
    raise ConversionError(
        f"{source} adapts layers that {base.name} does not have: {', '.join(unknown)}; use the "
        "base that it was made for."
    )
