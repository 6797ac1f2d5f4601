"""Device and BLAS: chosen in the documented order, behind fakes where we lack the device."""

from __future__ import annotations

import subprocess
import sys
import types
import warnings
from functools import cache
from typing import Any

import pytest

from ecellm_mlx.cli import doctor
from ecellm_mlx.device import backend, runtime


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
    ("metal", "cuda", "device"),
    [(True, False, "metal"), (False, True, "cuda"), (False, False, "cpu")],
)
def test_device(monkeypatch: pytest.MonkeyPatch, metal: bool, cuda: bool, device: str) -> None:
    import mlx

    assert backend.mx is mlx.core

    monkeypatch.setattr(mlx, "core", fake_mlx(metal=metal, cuda=cuda))
    monkeypatch.setattr(runtime, "_load_blas", lambda: runtime.Blas("openblas", "x"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", runtime.SlowBlasWarning)
        assert runtime.prepare().device == device
    assert runtime.compute_dtype("bfloat16") == ("float32" if device == "cpu" else "bfloat16")


def test_a_cuda_package_that_is_not_used_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = runtime.Runtime("cpu", runtime.Blas("openblas", "x"))
    monkeypatch.setattr(runtime, "cuda_package", lambda: None)
    assert doctor._device(cpu)["status"] == "ok"
    monkeypatch.setattr(runtime, "cuda_package", lambda: "mlx-cuda-13")
    found = doctor._device(cpu)
    assert found["status"] == "warn"
    assert "--no-deps mlx-cuda-13" in found["cure"]
    assert doctor._device(runtime.Runtime("cuda", cpu.blas))["status"] == "ok"


def test_order_of_libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    usable: set[str] = set()
    monkeypatch.setattr(runtime, "_load_cblas", lambda name: "" if name in usable else "no")
    monkeypatch.setattr(runtime, "_mkl_path", lambda: "/lib/libmkl_rt.so.2")
    monkeypatch.delenv("ECELLM_BLAS", raising=False)
    assert runtime._load_blas() == runtime.Blas("reference", None)
    assert not runtime._load_blas().fast
    usable.add("/lib/libmkl_rt.so.2")
    assert runtime._load_blas().name == "mkl"
    usable.add("libopenblas.so.0")
    assert runtime._load_blas().name == "openblas"
    monkeypatch.setenv("ECELLM_BLAS", "/opt/libblis.so")
    usable.add("/opt/libblis.so")
    assert runtime._load_blas() == runtime.Blas("libblis.so", "/opt/libblis.so")


def test_unusable_ecellm_blas_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    import ctypes.util

    # A library that exists and exports no CBLAS.
    monkeypatch.setenv("ECELLM_BLAS", ctypes.util.find_library("m") or "libm.so.6")
    with pytest.raises(runtime.EcellmError, match="it exports no cblas_sgemm"):
        runtime._load_blas()
    # What the loader says names a missing library, be it this one or one it needs.
    monkeypatch.setenv("ECELLM_BLAS", "/nowhere/libblas.so")
    with pytest.raises(runtime.EcellmError, match=r"/nowhere/libblas\.so: cannot open"):
        runtime._load_blas()


@pytest.mark.skipif(sys.platform != "linux", reason="macOS brings its own BLAS")
def test_reference_blas_warns_once_with_the_cure() -> None:
    code = (
        "from ecellm_mlx import runtime\n"
        "runtime.OPENBLAS_NAMES = ()\n"
        "runtime.ctypes.util.find_library = lambda _: None\n"
        "runtime._mkl_path = lambda: None\n"
        "import os; os.environ.pop('ECELLM_BLAS', None)\n"
        "from ecellm_mlx import backend\n"
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
        "from ecellm_mlx import runtime\n"
        "print(runtime.prepare().blas.fast)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "True"
    assert done.stderr == ""
