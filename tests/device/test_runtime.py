"""Device and BLAS: chosen in the documented order, behind fakes where we lack the device."""

from __future__ import annotations

import subprocess
import sys
import types
import warnings
from functools import cache
from typing import Any

import pytest

from ecellm_mlx import device
from ecellm_mlx.cli import doctor
from ecellm_mlx.device import backend, blas, runtime
from ecellm_mlx.errors import EcellmError


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let prepare() decide anew, and forget afterwards what it decided."""
    monkeypatch.setattr(runtime, "prepare", cache(runtime.prepare.__wrapped__))


def fake_mlx(*, metal: bool, cuda: bool) -> Any:
    """mlx.core as prepare() sees it."""
    kinds = types.SimpleNamespace(cpu="cpu", gpu="gpu")
    default = types.SimpleNamespace(type="gpu" if metal or cuda else "cpu")
    return types.SimpleNamespace(
        DeviceType=kinds,
        default_device=lambda: default,
        metal=types.SimpleNamespace(is_available=lambda: metal),
        cuda=types.SimpleNamespace(is_available=lambda: cuda),
        float32="float32",
    )


@pytest.mark.usefixtures("fresh")
@pytest.mark.parametrize(
    ("metal", "cuda", "backend_name"),
    [(True, False, "metal"), (False, True, "cuda"), (False, False, "cpu")],
)
def test_device(
    monkeypatch: pytest.MonkeyPatch, metal: bool, cuda: bool, backend_name: str
) -> None:
    import mlx

    assert backend.mx is mlx.core

    monkeypatch.setattr(mlx, "core", fake_mlx(metal=metal, cuda=cuda))
    monkeypatch.setattr(blas, "load", lambda: blas.Blas("openblas", "x"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", blas.SlowBlasWarning)
        assert runtime.prepare().backend == backend_name
    assert device.name() == device.expected().name == backend_name
    assert device.expected().bytes_per_value == (4 if backend_name == "cpu" else 2)


def test_a_cuda_package_that_is_not_used_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = runtime.Runtime("cpu", blas.Blas("openblas", "x"))
    monkeypatch.setattr(runtime, "cuda_package", lambda: None)
    assert doctor._device(cpu)["status"] == "ok"
    monkeypatch.setattr(runtime, "cuda_package", lambda: "mlx-cuda-13")
    check = doctor._device(cpu)
    assert check["status"] == "warn"
    assert "--no-deps mlx-cuda-13" in check["cure"]
    assert doctor._device(runtime.Runtime("cuda", cpu.blas))["status"] == "ok"


def test_order_of_libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    usable: set[str] = set()
    monkeypatch.setattr(blas, "_load_cblas", lambda name: "" if name in usable else "no")
    monkeypatch.setattr(blas, "_mkl_path", lambda: "/lib/libmkl_rt.so.2")
    monkeypatch.delenv("ECELLM_BLAS", raising=False)
    assert blas.load() == blas.Blas("reference", None)
    assert not blas.load().fast
    usable.add("/lib/libmkl_rt.so.2")
    assert blas.load().name == "mkl"
    usable.add("libopenblas.so.0")
    assert blas.load().name == "openblas"
    monkeypatch.setenv("ECELLM_BLAS", "/opt/libblis.so")
    usable.add("/opt/libblis.so")
    assert blas.load() == blas.Blas("libblis.so", "/opt/libblis.so")


def test_unusable_ecellm_blas_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    import ctypes.util

    # A library that exists and exports no CBLAS.
    monkeypatch.setenv("ECELLM_BLAS", ctypes.util.find_library("m") or "libm.so.6")
    with pytest.raises(EcellmError, match="it exports no cblas_sgemm"):
        blas.load()
    # What the loader says names a missing library, be it this one or one it needs.
    monkeypatch.setenv("ECELLM_BLAS", "/nowhere/libblas.so")
    with pytest.raises(EcellmError, match=r"/nowhere/libblas\.so: cannot open"):
        blas.load()


@pytest.mark.skipif(sys.platform != "linux", reason="macOS brings its own BLAS")
def test_reference_blas_warns_once_with_the_cure() -> None:
    code = (
        "from ecellm_mlx.device import blas, runtime\n"
        "blas.OPENBLAS_NAMES = ()\n"
        "blas.ctypes.util.find_library = lambda _: None\n"
        "blas._mkl_path = lambda: None\n"
        "import os; os.environ.pop('ECELLM_BLAS', None)\n"
        "from ecellm_mlx.device import backend\n"
        "runtime.prepare()\n"
        "print(backend.RUNTIME.blas.name)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "reference"
    assert done.stderr.count("SlowBlasWarning") == 1
    assert "libopenblas0-pthread" in done.stderr
    assert "pip install mkl" in done.stderr


def test_backend_is_loaded_before_mlx_everywhere() -> None:
    """With the engine imported first, a fast BLAS is behind mlx, not the reference."""
    code = (
        "import ecellm_mlx.models.loading, ecellm_mlx.inference.answers\n"
        "from ecellm_mlx.device import runtime\n"
        "print(runtime.prepare().blas.fast)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "True"
    assert done.stderr == ""
