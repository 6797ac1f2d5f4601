"""What only a Mac, or a laptop, has: wired memory, a battery, sleep, heat, notifications.

Each asks a tool that comes with macOS (``sysctl``, ``pmset``, ``caffeinate``, ``osascript``,
``tmutil``), none of which needs an administrator. Every function says what it gives on
other machines, and a tool that is missing, hangs or answers nonsense ends nothing.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from ecellm_mlx.device import runtime

MACOS = sys.platform == "darwin"
TOOL_TIMEOUT_S = 2.0
# kern.memorystatus_vm_pressure_level
PRESSURE = {"1": "normal", "2": "high", "4": "critical"}
SPEED_LIMIT = re.compile(r"CPU_Speed_Limit\s*=\s*(\d+)")
LOW_POWER = re.compile(r"\blowpowermode\s+1\b")


def wire_memory() -> int | None:
    """On Metal keep what MLX uses in memory, up to the limit that the device recommends.

    Otherwise macOS may page out weights between two steps, which makes large models
    many times slower.

    Returns:
        The limit in bytes; None on other devices, or where macOS is too old for it.
    """
    if runtime.prepare().backend != "metal":
        return None
    from ecellm_mlx.device.backend import mx

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
    reading = read() if read else None
    if reading is None:
        return None
    # Where the system does not know whether it is plugged, it is taken to be.
    return Battery(float(reading.percent), reading.power_plugged is not False)


def keep_awake(pid: int) -> bool:
    """Keep the machine from idle sleep while process ``pid`` lives; False where it cannot.

    The display may sleep, and a closed lid still puts a laptop to sleep.
    """
    tool = _tool("caffeinate")
    if tool is None:
        return False
    # A shell lets go of it, so that it ends with the job and nobody has to wait for it.
    return (
        _run("sh", "-c", '"$0" -i -w "$1" </dev/null >/dev/null 2>&1 &', tool, str(pid))
        is not None
    )


def memory_pressure() -> str | None:
    """How short the system says memory is: normal, high or critical; None elsewhere."""
    return PRESSURE.get(_asked("sysctl", "-n", "kern.memorystatus_vm_pressure_level").strip())


def slowed_by() -> list[str]:
    """What slows this machine down now, in words: heat, low power mode."""
    causes = []
    limit = SPEED_LIMIT.search(_asked("pmset", "-g", "therm"))
    if limit and int(limit.group(1)) < 100:
        causes.append(f"heat (the processor runs at {limit.group(1)} % of its speed)")
    if LOW_POWER.search(_asked("pmset", "-g")):
        causes.append("low power mode")
    return causes


def notify(title: str, text: str) -> bool:
    """Show a notification of the desktop; False where there is none."""
    script = (
        "on run argv\n"
        "display notification (item 2 of argv) with title (item 1 of argv)\n"
        "end run"
    )
    return _run("osascript", "-e", script, title, text) is not None


def exclude_from_backup(folder: Path) -> bool:
    """Have Time Machine leave a folder out that can be made again; False elsewhere."""
    return _run("tmutil", "addexclusion", str(folder)) is not None


def _tool(name: str) -> str | None:
    # Elsewhere a program of that name is another one.
    return shutil.which(name) if MACOS else None


def _asked(name: str, *arguments: str) -> str:
    """What a tool prints; empty where it cannot be asked."""
    return _run(name, *arguments) or ""


def _run(name: str, *arguments: str) -> str | None:
    """What a tool prints; None where it is missing, fails or hangs."""
    tool = _tool(name)
    if tool is None:
        return None
    try:
        done = subprocess.run(
            [tool, *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=TOOL_TIMEOUT_S,
            check=True,
        )
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError):
        return None
    return done.stdout
