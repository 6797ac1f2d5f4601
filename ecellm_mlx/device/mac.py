"""What only a Mac, or a laptop, has: wired memory, a battery.

Every function says what it gives on other machines.
"""

from __future__ import annotations

from dataclasses import dataclass

from ecellm_mlx.device import runtime


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
