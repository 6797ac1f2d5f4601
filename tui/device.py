"""Facts of this machine, without loading mlx here.

Memory and disk come from the system at once. What only MLX knows (device, BLAS,
its speed) comes from ``ecellm doctor --json`` in a process of its own, which may
take seconds, may fail and can be ended.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from ecellm_mlx import workspace
from ecellm_mlx.jobs import give_way

GIB = 1024**3
DOCTOR = (sys.executable, "-m", "ecellm_mlx.cli", "doctor", "--json")


@dataclass(frozen=True)
class Machine:
    """Readings in GiB. ``home`` is the workspace that ``disk_free_gb`` is about."""

    memory_gb: float
    memory_available_gb: float
    disk_free_gb: float
    home: Path


@dataclass(frozen=True)
class Check:
    """One pre-flight check. ``status`` is ok, warn or fail."""

    name: str
    status: str
    detail: str
    cure: str


@dataclass(frozen=True)
class Diagnosis:
    """What the doctor said, or the sentence why it said nothing."""

    facts: list[tuple[str, str]] = field(default_factory=list)
    checks: list[Check] = field(default_factory=list)
    problem: str = ""


def machine() -> Machine:
    """Read memory and disk now."""
    memory = psutil.virtual_memory()
    home = workspace.current().home
    existing = next(path for path in (home, *home.parents) if path.exists())
    return Machine(
        memory_gb=memory.total / GIB,
        memory_available_gb=memory.available / GIB,
        disk_free_gb=psutil.disk_usage(str(existing)).free / GIB,
        home=home,
    )


class Doctor:
    """One run of ``ecellm doctor``; ``end`` may be called from another thread."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            DOCTOR,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            errors="replace",
        )
        give_way(self._process.pid)

    def diagnosis(self) -> Diagnosis:
        """Wait for the answer and read it. A failed check is an answer, too."""
        out, err = self._process.communicate()
        try:
            return _read(json.loads(out))
        except (ValueError, TypeError, KeyError, AttributeError):
            said = (err or out).strip().splitlines()
            last = said[-1] if said else "nothing"
            return Diagnosis(
                problem="`ecellm doctor` gave no answer "
                f"(exit status {self._process.returncode}). It said: {last[:300]}"
            )

    def end(self) -> None:
        """Stop waiting: the app is closing."""
        self._process.terminate()


def _read(report: dict[str, Any]) -> Diagnosis:
    blas, rate = report.get("blas"), report.get("blas_gflops")
    if isinstance(blas, dict):
        blas = blas.get("name")
    versions = report.get("versions") or {}
    speed = f" at {rate:.0f} GFLOP/s" if rate else ""
    facts = [
        ("device", f"{report['device']}, BLAS {blas}{speed}" if blas else report["device"])
    ]
    known = [f"{name} {versions[name]}" for name in ("mlx", "mlx-lm") if name in versions]
    facts.append(("versions", ", ".join(known)))
    checks = [
        Check(
            name=str(item["name"]),
            status=str(item["status"]),
            detail=str(item.get("detail") or ""),
            cure=str(item.get("cure") or ""),
        )
        for item in report.get("checks") or []
    ]
    return Diagnosis(facts, checks)
