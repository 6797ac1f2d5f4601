"""Facts of the machine: the backend that MLX computes on, its BLAS, memory and cores.

``prepare()`` must run before ``mlx.core`` is imported, so that a fast BLAS comes first
(see ``blas``). The rest of the engine imports mlx through ``ecellm_mlx.device.backend``,
which sees to it. How the machine computes is not told here, but by ``device.current()``.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import math
import os
import platform
import sys
import time
import warnings
from dataclasses import dataclass
from functools import cache
from typing import Literal

from ecellm_mlx.device import blas as blas_library
from ecellm_mlx.device.blas import Blas, SlowBlasWarning

Backend = Literal["metal", "cuda", "cpu"]

LINUX = sys.platform == "linux"
THREAD_LIMITS = ("MKL_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")
GIB = 1024**3


@dataclass(frozen=True)
class Runtime:
    """The machine as MLX sees it."""

    backend: Backend
    blas: Blas


@cache
def prepare() -> Runtime:
    """Load a fast BLAS where it matters, import mlx, and see what it computes on.

    Raises:
        EcellmError: ``ECELLM_BLAS`` names a library that cannot be used.
    """
    late = "mlx.core" in sys.modules
    blas = blas_library.ACCELERATE if sys.platform == "darwin" else blas_library.load()
    import mlx.core as mx  # noqa: TID251

    backend: Backend = "cpu"
    if mx.metal.is_available():
        backend = "metal"
    elif hasattr(mx, "cuda") and mx.cuda.is_available():
        backend = "cuda"
    if mx.default_device().type == mx.DeviceType.cpu:
        # The user's own MLX_DEVICE or set_default_device wins.
        backend = "cpu"
    if backend == "cpu" and LINUX:
        if late and blas.fast:
            blas = blas_library.REFERENCE
            warnings.warn(
                "mlx was imported before ecellm_mlx, so that no fast BLAS could be loaded; "
                "import ecellm_mlx.device.backend first",
                SlowBlasWarning,
                stacklevel=2,
            )
        elif not blas.fast:
            warnings.warn(
                "MLX runs on its reference BLAS, about 80 times slower than it could; "
                + blas_library.CURE,
                SlowBlasWarning,
                stacklevel=2,
            )
    return Runtime(backend, blas)


def expected_backend() -> Backend:
    """The backend that MLX will compute on, without importing it."""
    if "mlx.core" in sys.modules:
        return prepare().backend
    if sys.platform == "darwin" and platform.machine() == "arm64":
        return "metal"
    return "cuda" if cuda_package() else "cpu"


def cuda_package() -> str | None:
    """The package that brings MLX's CUDA backend; None if none is installed."""
    for name in ("mlx-cuda-13", "mlx-cuda-12", "mlx-cuda"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            importlib.metadata.version(name)
            return name
    return None


def host_threads() -> int:
    """Threads for work on the host: the cores, or fewer where products may use fewer."""
    cores = os.cpu_count()
    if sys.platform == "linux":
        # A process may be given fewer cores than there are.
        cores = len(os.sched_getaffinity(0))
    limits = (os.environ.get(name, "") for name in THREAD_LIMITS)
    return min(
        [cores or 1, *(int(limit) for limit in limits if limit.isdigit() and int(limit))]
    )


def total_memory_gb() -> float:
    """Memory that models can use: unified on a Mac, the GPU's or the host's elsewhere (GiB)."""
    import psutil

    return psutil.virtual_memory().total / GIB


def available_memory_gb() -> float:
    """Memory that is free or can be freed at once (GiB)."""
    import psutil

    return psutil.virtual_memory().available / GIB


def metal_limit_gb(total_gb: float) -> float:
    """About what Metal recommends to use at most on a Mac with so much memory (GiB).

    The exact number is the device's ``max_recommended_working_set_size``: two thirds of
    smaller memories, three quarters of larger ones.
    """
    return total_gb * (0.75 if total_gb >= 36 else 0.67)


def memory_limit_gb() -> float:
    """Above this a job cannot run here (GiB); infinite where only the device knows."""
    backend = expected_backend()
    if backend == "cuda":
        return math.inf
    total = total_memory_gb()
    return metal_limit_gb(total) if backend == "metal" else total


def peak_memory_gb() -> float:
    """MLX's peak since ``reset_peak_memory`` in this process (GiB)."""
    import mlx.core as mx  # noqa: TID251

    return mx.get_peak_memory() / GIB


def reset_peak_memory() -> None:
    """Start a new peak reading."""
    import mlx.core as mx  # noqa: TID251

    mx.reset_peak_memory()


def blas_gflops(size: int = 1024, repeats: int = 8) -> float:
    """Measured rate of a float32 product of two ``size`` × ``size`` matrices (GFLOP/s)."""
    runtime = prepare()
    import mlx.core as mx  # noqa: TID251

    if not runtime.blas.fast and runtime.backend == "cpu":
        size, repeats = 512, 1
    a, b = mx.random.normal((size, size)), mx.random.normal((size, size))
    mx.eval(a @ b)
    start = time.perf_counter()
    for _ in range(repeats):
        mx.eval(a @ b)
    return 2 * size**3 * repeats / (time.perf_counter() - start) / 1e9


def machine() -> str:
    """Operating system and processor in words."""
    return f"{platform.system()} {platform.machine()}"


def threads() -> str:
    """How many threads products use, as the environment says or by the cores."""
    limits = {name: os.environ[name] for name in THREAD_LIMITS if name in os.environ}
    said = ", ".join(f"{name}={value}" for name, value in limits.items())
    return said or str(os.cpu_count())
