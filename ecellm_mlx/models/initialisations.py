"""How the numbers of a new adapter are drawn: one entry for each value of ``init``.

A layer with an adapter computes y = W x + scale · B A x. An initialisation sets A and B
and nothing else. It is given them as mlx-lm makes them (A uniform within ±1/√in, B zero)
and returns those to begin with, of the same shapes:

    linear      lora_a (in, r)           lora_b (r, out)
    embedding   lora_a (vocabulary, r)   lora_b (r, dim)

Two promises are checked wherever adapters are attached (``lora.attach``), because an
adapter is saved without its base and loaded on the untouched one:

- W stays as it is, to the bit. PiSSA, OLoRA, CorDA and LoftQ subtract B A from it;
  such a residual has no place in mlx-lm's format, so that the trained adapter would
  come back as another model. One of these needs its start to be saved as well, as
  PEFT's conversion of them does (rank 2r: A, B after training beside A, B before).
- A or B is zero, so that training starts from the base.

To add one: write its function, give it a name in ``Init`` and ``REGISTRY``, and say how
PEFT draws the same. The recipe's ``init``, its form and its page take the names from
here, and tests compare the numbers with PEFT's, train each one and load it again. Loads
no mlx, so that recipes can be read without.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from ecellm_mlx.device.backend import mx

Init = Literal["peft", "mlx-lm"]
# (lora_a, lora_b, whether the layer is an embedding) -> (lora_a, lora_b)
Draw = Callable[["mx.array", "mx.array", bool], "tuple[mx.array, mx.array]"]


@dataclass(frozen=True)
class Initialisation:
    """One way to begin.

    Attributes:
        draw: gives the initial A and B; random numbers come from ``mx.random``, which is
            seeded already, layer by layer in the order of the model.
        peft: ``LoraConfig.init_lora_weights`` that draws from the same distributions;
            None if PEFT has nothing like it.
    """

    draw: Draw
    peft: bool | str | None


def _peft(a: mx.array, b: mx.array, embedding: bool) -> tuple[mx.array, mx.array]:
    """As PEFT begins: its Kaiming uniform with a = √5 is mlx-lm's uniform for a linear layer.

    An embedding has A zero and B standard normal there, as ``nn.Embedding`` starts.
    """
    from ecellm_mlx.device.backend import mx

    return (mx.zeros_like(a), mx.random.normal(b.shape)) if embedding else (a, b)


def _mlx_lm(a: mx.array, b: mx.array, embedding: bool) -> tuple[mx.array, mx.array]:
    """As mlx-lm begins, for embeddings too: A uniform within ±1/√vocabulary, B zero."""
    return a, b


REGISTRY: dict[str, Initialisation] = {
    "peft": Initialisation(_peft, peft=True),
    "mlx-lm": Initialisation(_mlx_lm, peft=None),
}
