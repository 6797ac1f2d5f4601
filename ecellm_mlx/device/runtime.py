"""Device, BLAS, dtype and memory: the only module that knows the machine.

``prepare()`` must run before ``mlx.core`` is imported, because MLX's Linux CPU
wheel links the reference BLAS (about 1.5 GFLOP/s). A library that exports plain
``cblas_sgemm`` and was loaded first takes its place and is some 80 times faster.
The rest of the engine imports mlx through ``ecellm_mlx.device.backend``, which sees to it.
"""

from __future__ import annotations

import contextlib
import ctypes
import ctypes.util
import importlib.metadata
import importlib.util
import math
import os
import platform
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from ecellm_mlx.errors import EcellmError

if TYPE_CHECKING:
    import mlx.core as mx  # noqa: TID251

BLAS_CURE = (
    "install OpenBLAS (Debian and Ubuntu: `apt install libopenblas0-pthread`) or, on x86-64, "
    "`pip install mkl`, or point ECELLM_BLAS at a library that exports cblas_sgemm"
)
OPENBLAS_NAMES = ("libopenblas.so.0", "libopenblasp.so.0", "libopenblas.so")
THREAD_LIMITS = ("MKL_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")
THREAD_SETTERS = (
    "MKL_Set_Num_Threads",
    "openblas_set_num_threads",
    "bli_thread_set_num_threads",
)
GIB = 1024**3


class SlowBlasWarning(UserWarning):
    """Only the reference BLAS is left on the CPU backend."""


@dataclass(frozen=True)
class Blas:
    """The library behind float32 matrix products. ``path`` is None for MLX's own."""

    name: str
    path: str | None

    @property
    def fast(self) -> bool:
        """Whether products run at the machine's speed."""
        return self.name != "reference"


@dataclass(frozen=True)
class Runtime:
    """The machine as MLX will see it: ``device`` is metal, cuda or cpu."""

    device: str
    blas: Blas

    @property
    def on_cpu(self) -> bool:
        """Whether arrays are computed by the CPU backend."""
        return self.device == "cpu"


@cache
def prepare() -> Runtime:
    """Load a fast BLAS where it matters, import mlx, and choose the device.

    Raises:
        EcellmError: ``ECELLM_BLAS`` names a library that cannot be used.
    """
    late = "mlx.core" in sys.modules
    blas = Blas("accelerate", None) if sys.platform == "darwin" else _load_blas()
    import mlx.core as mx  # noqa: TID251

    device = "cpu"
    if mx.metal.is_available():
        device = "metal"
    elif hasattr(mx, "cuda") and mx.cuda.is_available():
        device = "cuda"
    if mx.default_device().type == mx.DeviceType.cpu:
        # The user's own MLX_DEVICE or set_default_device wins.
        device = "cpu"
    if device == "cpu" and sys.platform == "linux":
        if late and blas.fast:
            blas = Blas("reference", None)
            warnings.warn(
                "mlx was imported before ecellm_mlx, so that no fast BLAS could be loaded; "
                "import ecellm_mlx.device.backend first",
                SlowBlasWarning,
                stacklevel=2,
            )
        elif not blas.fast:
            warnings.warn(
                "MLX runs on its reference BLAS, about 80 times slower than it could; "
                + BLAS_CURE,
                SlowBlasWarning,
                stacklevel=2,
            )
    return Runtime(device, blas)


def _load_blas() -> Blas:
    """The first usable library of: ECELLM_BLAS, system OpenBLAS, the mkl wheel."""
    # MKL's threads otherwise spin for 0.2 s after every product, which starves whoever
    # shares the cores: MLX's own thread, the TUI, a second job.
    os.environ.setdefault("KMP_BLOCKTIME", "0")
    # MKL may otherwise add in another order from run to run, by where an array happens to
    # lie in memory; a resumed job must give the bits of one that was never stopped.
    os.environ.setdefault("MKL_CBWR", "AUTO")
    if chosen := os.environ.get("ECELLM_BLAS"):
        if problem := _load_cblas(chosen):
            raise EcellmError(
                f"ECELLM_BLAS={chosen} cannot be used ({problem})",
                cure="correct the path, install what the library needs, or unset ECELLM_BLAS",
            )
        return Blas(Path(chosen).name, chosen)
    for name in (*OPENBLAS_NAMES, ctypes.util.find_library("openblas")):
        if name and not _load_cblas(name):
            return Blas("openblas", name)
    if (mkl := _mkl_path()) and not _load_cblas(str(mkl)):
        return Blas("mkl", str(mkl))
    return Blas("reference", None)


def _load_cblas(path: str) -> str:
    """Load ``path`` for all later libraries; what is wrong with it, empty if nothing."""
    try:
        # A look without RTLD_GLOBAL first: a wrong library must not stay in the way.
        if not hasattr(ctypes.CDLL(path), "cblas_sgemm"):
            return "it exports no cblas_sgemm"
        ctypes.CDLL(path, mode=ctypes.RTLD_GLOBAL)
    except OSError as error:
        return str(error)
    return ""


def _mkl_path() -> Path | None:
    try:
        files = importlib.metadata.files("mkl") or []
    except importlib.metadata.PackageNotFoundError:
        return None
    for file in files:
        if file.name.startswith("libmkl_rt.so"):
            return Path(str(file.locate())).resolve()
    return None


def compute_dtype(stored: mx.Dtype) -> mx.Dtype:
    """The dtype to compute in, given the one that weights are stored in.

    On the CPU backend 16-bit products run some 50 times slower than float32 ones;
    elsewhere the stored dtype is kept.
    """
    import mlx.core as mx  # noqa: TID251

    return mx.float32 if prepare().on_cpu else stored


def pass_overhead_tokens() -> int:
    """What a forward pass costs before its first token, in tokens of a wide pass.

    A pass reads all weights, however few tokens it has. On the CPU backend arithmetic
    catches up with that at some 30 tokens (SmolLM2-135M, 2 cores); a GPU has much more
    arithmetic for its bandwidth.
    """
    return 32 if prepare().on_cpu else 256


def quantized_crossover_rows() -> int:
    """Rows from which de-quantizing a weight first beats the CPU backend's fused product.

    ``benchmarks/quantized_prefill.py`` measures it: both take the same time at two rows,
    for 4 and 8 bits and layers of all sizes tried.
    """
    return 3


def host_threads() -> int:
    """Threads for work on the host: the cores, or fewer where products may use fewer."""
    counted = hasattr(os, "sched_getaffinity")
    cores = len(os.sched_getaffinity(0)) if counted else os.cpu_count()
    limits = (os.environ.get(name, "") for name in THREAD_LIMITS)
    return min(
        [cores or 1, *(int(limit) for limit in limits if limit.isdigit() and int(limit))]
    )


@contextlib.contextmanager
def cores_shared_by(callers: int) -> Iterator[None]:
    """While this lasts, a product uses its caller's share of the cores, not all of them."""
    setter = _thread_setter()
    if setter is None or callers < 2:
        yield
        return
    setter(max(1, host_threads() // callers))
    try:
        yield
    finally:
        setter(host_threads())


def can_share_cores() -> bool:
    """Whether work on several threads pays: the CPU backend, whose BLAS can be told so."""
    return prepare().on_cpu and host_threads() > 1 and _thread_setter() is not None


@cache
def _thread_setter() -> Callable[[int], object] | None:
    """Sets how many threads a product uses, whoever asks for it; None if the BLAS has none.

    ``threadpoolctl`` limits the calling thread only where the BLAS is MKL, and MLX
    computes on threads of its own.
    """
    blas = prepare().blas
    if blas.path is None:
        return None
    library = ctypes.CDLL(blas.path)
    for name in THREAD_SETTERS:
        if hasattr(library, name):
            return getattr(library, name)
    return None


def total_memory_gb() -> float:
    """Memory that models can use: unified on a Mac, the GPU's or the host's elsewhere (GiB)."""
    import psutil

    return psutil.virtual_memory().total / GIB


def available_memory_gb() -> float:
    """Memory that is free or can be freed at once (GiB)."""
    import psutil

    return psutil.virtual_memory().available / GIB


def expected_device() -> str:
    """The device that MLX will compute on, without importing it."""
    if "mlx.core" in sys.modules:
        return prepare().device
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


def metal_limit_gb(total_gb: float) -> float:
    """About what Metal recommends to use at most on a Mac with so much memory (GiB).

    The exact number is the device's ``max_recommended_working_set_size``: two thirds of
    smaller memories, three quarters of larger ones.
    """
    return total_gb * (0.75 if total_gb >= 36 else 0.67)


def memory_limit_gb() -> float:
    """Above this a job cannot run here (GiB); infinite where only the device knows."""
    device = expected_device()
    if device == "cuda":
        return math.inf
    total = total_memory_gb()
    return metal_limit_gb(total) if device == "metal" else total


def wire_memory() -> int | None:
    """On Metal keep what MLX uses in memory, up to the limit that the device recommends.

    Otherwise macOS may page out weights between two steps, which makes large models
    many times slower.

    Returns:
        The limit in bytes; None on other devices, or where macOS is too old for it.
    """
    if prepare().device != "metal":
        return None
    import mlx.core as mx  # noqa: TID251

    limit = int(mx.device_info()["max_recommended_working_set_size"])
    try:
        mx.set_wired_limit(limit)
    except (RuntimeError, ValueError):
        # Before macOS 15 there is no residency to ask for.
        return None
    return limit


@dataclass(frozen=True)
class Battery:
    """Charge in percent, and whether the machine is on mains power."""

    percent: float
    plugged: bool


def battery() -> Battery | None:
    """The battery; None where the machine has none or does not tell."""
    import psutil

    read = getattr(psutil, "sensors_battery", None)
    found = read() if read else None
    if found is None:
        return None
    # Where the system does not know whether it is plugged, it is taken to be.
    return Battery(float(found.percent), found.power_plugged is not False)


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

    if not runtime.blas.fast and runtime.on_cpu:
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


def conditions() -> dict[str, str]:
    """What decides the bits of a computation besides its inputs: device, BLAS, threads."""
    found = prepare()
    limits = {name: os.environ[name] for name in THREAD_LIMITS if name in os.environ}
    threads = ", ".join(f"{name}={value}" for name, value in limits.items())
    return {
        "machine": machine(),
        "device": found.device,
        "blas": found.blas.name,
        "threads": threads or str(os.cpu_count()),
    }
