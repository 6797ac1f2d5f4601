"""What the machine is and how it computes; the only room that asks which device it is.

The plain path is MLX as it comes: all of Metal and CUDA, and the CPU backend with
``ECELLM_DEVICE=plain``. On Linux the CPU backend has extras, which live in ``cpu`` behind
the same protocol and can be taken away without changing an answer. Rooms above compute
through ``current()`` and plan with ``expected()``; neither name nor branch of a device
stands in them.

    protocol   what every device does, and what it is told: batches, passes, caches
    traits     how a device computes, in numbers that a plan is made of; loads no mlx
    plain      MLX as it is
    padded     the KV cache of the plain path: rows of different lengths, padded
    dequantize layers whose packed integers are made floats again
    cpu/       the extras of the Linux CPU backend, and all that they replace in mlx-lm
    runtime    facts of the machine: backend, memory, cores, conditions
    blas       a fast BLAS, loaded before mlx
    mac        what only a Mac or a laptop has: battery, sleep, memory pressure, heat
    failures   what a GPU's errors mean, for a person
    backend    the one door to mlx itself
"""

from __future__ import annotations

import importlib.util
import os
from functools import cache
from typing import TYPE_CHECKING

from ecellm_mlx.device import runtime
from ecellm_mlx.device.traits import CPU, CUDA, METAL, PLAIN_CPU, Traits
from ecellm_mlx.errors import UsageError

if TYPE_CHECKING:
    from ecellm_mlx.device.protocol import Device

CHOICE = "ECELLM_DEVICE"
AUTO, PLAIN = "auto", "plain"
# The room of the extras, by name: it is imported only where it is used.
EXTRAS = "ecellm_mlx.device.cpu"

__all__ = [
    "CPU",
    "CUDA",
    "METAL",
    "PLAIN_CPU",
    "Traits",
    "conditions",
    "current",
    "expected",
    "name",
]


def current() -> Device:
    """The device that computes in this process; imports mlx.

    Raises:
        UsageError: ``ECELLM_DEVICE`` has another value than ``auto`` and ``plain``.
        EcellmError: ``ECELLM_BLAS`` names a library that cannot be used.
    """
    traits = _traits(runtime.prepare().backend)
    return _device(traits)


def expected() -> Traits:
    """The traits of the device that MLX will compute on, without importing it.

    Raises:
        UsageError: ``ECELLM_DEVICE`` has another value than ``auto`` and ``plain``.
    """
    return _traits(runtime.expected_backend())


def name() -> str:
    """What ``started`` events call the device: metal, cuda, cpu or cpu (plain)."""
    return current().traits.name


def conditions() -> dict[str, str]:
    """What decides the bits of a computation besides its inputs: device, BLAS, threads."""
    return {
        "machine": runtime.machine(),
        "device": name(),
        "blas": runtime.prepare().blas.name,
        "threads": runtime.threads(),
    }


def _traits(backend: runtime.Backend) -> Traits:
    chosen = os.environ.get(CHOICE) or AUTO
    if chosen not in (AUTO, PLAIN):
        raise UsageError(
            f"{CHOICE}={chosen} names no way to compute",
            expected=f"{AUTO} or {PLAIN}",
            cure=f"set it to {AUTO}, or unset it",
        )
    if backend != "cpu":
        return METAL if backend == "metal" else CUDA
    extras = chosen == AUTO and runtime.LINUX and _has_extras()
    return CPU if extras else PLAIN_CPU


def _has_extras() -> bool:
    """Whether the room of the extras is there; it may have been taken away."""
    try:
        return importlib.util.find_spec(EXTRAS) is not None
    except (ModuleNotFoundError, ValueError):
        # A finder that refuses the name, or a None in its place in ``sys.modules``.
        return False


@cache
def _device(traits: Traits) -> Device:
    if traits is CPU:
        from ecellm_mlx.device.cpu import Cpu

        return Cpu()
    from ecellm_mlx.device.plain import Plain

    return Plain(traits)
