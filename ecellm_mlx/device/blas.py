"""A fast BLAS for MLX's Linux CPU backend, loaded before ``mlx.core`` is imported.

MLX's Linux wheel links the reference BLAS (about 1.5 GFLOP/s). A library that exports
plain ``cblas_sgemm`` and was loaded first takes its place and is some 80 times faster.
Nothing of MLX itself is replaced. Knows libraries only; loads no mlx.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import importlib.metadata
import os
from dataclasses import dataclass
from pathlib import Path

from ecellm_mlx.errors import EcellmError

CURE = (
    "install OpenBLAS (Debian and Ubuntu: `apt install libopenblas0-pthread`) or, on x86-64, "
    "`pip install mkl`, or point ECELLM_BLAS at a library that exports cblas_sgemm"
)
OPENBLAS_NAMES = ("libopenblas.so.0", "libopenblasp.so.0", "libopenblas.so")


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


ACCELERATE = Blas("accelerate", None)
REFERENCE = Blas("reference", None)


def load() -> Blas:
    """The first usable library of: ECELLM_BLAS, system OpenBLAS, the mkl wheel.

    Raises:
        EcellmError: ``ECELLM_BLAS`` names a library that cannot be used.
    """
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
    return REFERENCE


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
