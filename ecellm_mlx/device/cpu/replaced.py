"""The one list of what is replaced in MLX and mlx-lm while the host computes.

Models are not changed. While ``Replacements.active`` lasts, names that mlx-lm's model
files look up when they are called mean functions of this room; afterwards they mean what
they did before. Each function takes the calls that it is made for, in float32, and hands
all others on to the one in whose place it stands.

    name                             of                  inference   training
    scaled_dot_product_attention     the model's file    yes         with a gradient
    swiglu                           the model's file    yes         with a gradient
    gelu_approx                      mlx.nn              yes         with a gradient
    silu                             mlx.nn              yes
    call of norms and rotations      their classes                   keeps its input only
    call of a block                  its class                       cuts the way back
    call of LoRALinear               mlx_lm.tuner.lora               two products, not four
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from ecellm_mlx.device.backend import mx, nn
from ecellm_mlx.device.cpu import gradients, kernels
from ecellm_mlx.device.cpu.packed import PackedLayer
from ecellm_mlx.device.protocol import UnsuitedError

MODELS = "mlx_lm.models."

Function = Callable[..., mx.array]
# Where a name is, the name, and what makes the function in its place from the original.
Replacement = tuple[ModuleType | type, str, Callable[[Function], Function]]


def for_inference(model: nn.Module) -> Replacements:
    """What computes the forward passes of ``model``."""
    return Replacements(
        [
            *_in_files(model, "scaled_dot_product_attention", _attention(kernels.attend)),
            *_in_files(model, "swiglu", _float32(kernels.swiglu)),
            (nn, "gelu_approx", _float32(kernels.gelu_approx)),
            (nn, "silu", _float32(kernels.silu)),
        ]
    )


def for_training(model: nn.Module) -> Replacements:
    """What computes forward and backward passes of ``model``, whose adapter is attached.

    Both must lie within ``active``: recomputed blocks run their forward pass during the
    backward one.
    """
    from mlx_lm.tuner.lora import LoRALinear  # noqa: TID251

    cheap = {type(m) for name, m in model.named_modules() if gradients.is_cheap(name, m)}
    return Replacements(
        [
            *_in_files(model, "scaled_dot_product_attention", _attention(gradients.attend)),
            *_in_files(model, "swiglu", _float32(gradients.swiglu)),
            (nn, "gelu_approx", _float32(gradients.gelu_approx)),
            *((kind, "__call__", gradients.sealed) for kind in cheap),
            *((kind, "__call__", gradients.cutting) for kind in {*map(type, model.layers)}),
            (LoRALinear, "__call__", gradients.lora_or),
        ]
    )


class Replacements:
    """Functions that take the place of others for some time."""

    def __init__(self, replacements: Sequence[Replacement]) -> None:
        self._functions = [
            (where, name, make(getattr(where, name))) for where, name, make in replacements
        ]

    @contextmanager
    def active(self) -> Iterator[None]:
        """Within the context the names mean these functions."""
        before = [getattr(where, name) for where, name, _ in self._functions]
        try:
            for where, name, function in self._functions:
                setattr(where, name, function)
            yield
        finally:
            for (where, name, _), function in zip(self._functions, before, strict=True):
                setattr(where, name, function)


def _in_files(
    model: nn.Module, name: str, make: Callable[[Function], Function]
) -> list[Replacement]:
    """The replacement of ``name`` in those of mlx-lm's files that ``model`` is made of."""
    names = sorted({type(module).__module__ for module in model.modules()})
    files = [sys.modules[file] for file in names if file.startswith(MODELS)]
    return [(file, name, make) for file in files if hasattr(file, name)]


def _float32(function: Function) -> Callable[[Function], Function]:
    """``function`` for calls of which every argument is float32."""

    def make(original: Function) -> Function:
        def choose(*arrays: mx.array) -> mx.array:
            if all(array.dtype == mx.float32 for array in arrays):
                return function(*arrays)
            return original(*arrays)

        return choose

    return make


def _attention(
    attend: Callable[..., mx.array | None],
) -> Callable[[Function], Function]:
    """``attend`` for calls in float32 that ask for nothing but a mask.

    It is given (queries, keys, values, cache, scale, mask), and None is what it gives for a
    call that it is not made for.
    """

    def make(original: Function) -> Function:
        def choose(
            queries: mx.array,
            keys: mx.array,
            values: mx.array,
            cache: Any,
            scale: float,
            mask: Any,
            **others: Any,
        ) -> mx.array:
            float32 = {queries.dtype, keys.dtype, values.dtype} == {mx.float32}
            if float32 and not any(value is not None for value in others.values()):
                result = attend(queries, keys, values, cache, scale, mask)
                if result is not None:
                    return result
            if isinstance(cache, PackedLayer):
                raise UnsuitedError("its attention is not computed row by row")
            return original(
                queries, keys, values, cache=cache, scale=scale, mask=mask, **others
            )

        return choose

    return make
