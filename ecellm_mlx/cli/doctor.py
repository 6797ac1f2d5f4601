"""Pre-flight checks: is this machine ready, and if not, what to do.

Each check is ``{name, status, detail, cure}`` with status ok, warn or fail. A fail
means that nothing can be trained or run.
"""

from __future__ import annotations

import shutil
import sys
import warnings
from importlib import metadata
from typing import Any

from ecellm_mlx import device, workspace
from ecellm_mlx.device import blas, runtime
from ecellm_mlx.jobs import versions

SLOW_GFLOPS = 20.0
LOW_MEMORY_GB = 6.0
LOW_DISK_GB = 5.0
OPTIONAL = {"torch": "PyTorch", "peft": "PEFT"}


def examine() -> dict[str, Any]:
    """Measure this machine.

    Returns:
        ``device``, ``blas``, ``blas_gflops``, ``memory_gb``, ``versions``, ``checks``.
    """
    with warnings.catch_warnings():
        # The BLAS check says the same, with the measured rate.
        warnings.simplefilter("ignore", blas.SlowBlasWarning)
        machine = runtime.prepare()
    gflops = runtime.blas_gflops()
    memory = runtime.total_memory_gb()
    return {
        "device": device.name(),
        "machine": runtime.machine(),
        "blas": machine.blas.name,
        "blas_gflops": round(gflops, 1),
        "memory_gb": round(memory, 1),
        "versions": versions(),
        "checks": [
            _python(),
            _device(machine),
            _blas(machine, gflops),
            _compiler(machine),
            _memory(memory),
            _disk(),
            _models(),
            _reference(),
        ],
    }


def show(report: dict[str, Any]) -> None:
    """Print a report for a person."""
    from ecellm_mlx.cli.output import emit_table

    marks = {"ok": "ok", "warn": "warning", "fail": "FAIL"}
    emit_table(
        f"{report['machine']}, {report['device']}, {report['memory_gb']} GB, "
        f"{report['blas']} at {report['blas_gflops']:.0f} GFLOP/s",
        ["check", "status", "finding", "what to do"],
        [[c["name"], marks[c["status"]], c["detail"], c["cure"]] for c in report["checks"]],
    )


def _check(name: str, status: str, detail: str, cure: str = "") -> dict[str, str]:
    return {"name": name, "status": status, "detail": detail, "cure": cure}


def _python() -> dict[str, str]:
    return _check("python", "ok", ".".join(map(str, sys.version_info[:3])))


def _device(machine: runtime.Runtime) -> dict[str, str]:
    if machine.backend == "cpu" and sys.platform == "darwin":
        return _check(
            "device",
            "warn",
            "MLX does not see the GPU of this Mac",
            "use a native arm64 Python; under Rosetta there is no Metal",
        )
    package = runtime.cuda_package()
    if machine.backend == "cpu" and package:
        return _check(
            "device",
            "warn",
            f"MLX computes on cpu, though {package} is installed",
            f"see that `nvidia-smi` lists a GPU, then run `pip install --force-reinstall "
            f"--no-deps {package}`: mlx-cpu puts its library in the same place",
        )
    return _check("device", "ok", f"MLX computes on {device.name()}")


def _blas(machine: runtime.Runtime, gflops: float) -> dict[str, str]:
    detail = f"{machine.blas.name}, {gflops:.0f} GFLOP/s in float32"
    if machine.backend == "cpu" and sys.platform == "linux" and not machine.blas.fast:
        return _check("blas", "warn", detail, blas.CURE)
    if gflops < SLOW_GFLOPS:
        return _check("blas", "warn", detail, "close other programs and measure again")
    return _check("blas", "ok", detail)


def _compiler(machine: runtime.Runtime) -> dict[str, str]:
    if machine.backend == "cpu" and sys.platform == "linux" and not shutil.which("g++"):
        return _check(
            "compiler",
            "warn",
            "no g++: MLX cannot fuse element-wise operations",
            "install it (Debian and Ubuntu: `apt install g++`)",
        )
    return _check("compiler", "ok", "not needed" if machine.backend != "cpu" else "found")


def _memory(total_gb: float) -> dict[str, str]:
    free = runtime.available_memory_gb()
    detail = f"{free:.1f} of {total_gb:.1f} GB free"
    if free < LOW_MEMORY_GB:
        return _check("memory", "warn", detail, "close other programs, or use a small model")
    return _check("memory", "ok", detail)


def _disk() -> dict[str, str]:
    home = workspace.current().home
    existing = next(p for p in (home, *home.parents) if p.exists())
    free = shutil.disk_usage(existing).free / runtime.GIB
    detail = f"{free:.0f} GB free for {home}"
    if free < LOW_DISK_GB:
        return _check("disk", "warn", detail, "free some space, or move ECELLM_HOME")
    return _check("disk", "ok", detail)


def _models() -> dict[str, str]:
    from ecellm_mlx.models import registry

    installed = registry.installed(workspace.current())
    broken = [m for m in installed if m.problem]
    if broken:
        detail = "; ".join(f"{m.name}: {m.problem}" for m in broken)
        return _check("models", "warn", detail, f"remove {broken[0].path} and pull it again")
    if not installed:
        return _check(
            "models", "warn", "none installed", "run `ecellm models import smollm2-135m`"
        )
    return _check("models", "ok", ", ".join(m.name for m in installed))


def _reference() -> dict[str, str]:
    missing = [label for name, label in OPTIONAL.items() if not _installed(name)]
    if missing:
        return _check("reference", "ok", f"{' and '.join(missing)} not installed; not needed")
    return _check("reference", "ok", "PyTorch and PEFT, for comparisons of logits")


def _installed(name: str) -> bool:
    try:
        return bool(metadata.version(name))
    except metadata.PackageNotFoundError:
        return False
