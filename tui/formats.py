"""Numbers, durations and ages as short text. Knows nothing of widgets."""

from __future__ import annotations

MINUTE_S, HOUR_S, DAY_S = 60, 3600, 86400


def duration(seconds: float) -> str:
    """``42 s``, ``3 min 05 s``, ``2 h 10 min``, ``4 d 3 h``."""
    whole = max(0, round(seconds))
    if whole < MINUTE_S:
        return f"{whole} s"
    if whole < HOUR_S:
        return f"{whole // MINUTE_S} min {whole % MINUTE_S:02d} s"
    if whole < DAY_S:
        return f"{whole // HOUR_S} h {whole % HOUR_S // MINUTE_S:02d} min"
    return f"{whole // DAY_S} d {whole % DAY_S // HOUR_S} h"


def age(seconds: float) -> str:
    """How long ago, in one unit: ``now``, ``5 min``, ``3 h``, ``12 d``."""
    whole = max(0, int(seconds))
    if whole < MINUTE_S:
        return "now"
    if whole < HOUR_S:
        return f"{whole // MINUTE_S} min"
    if whole < DAY_S:
        return f"{whole // HOUR_S} h"
    return f"{whole // DAY_S} d"


def number(value: float | None, digits: int = 4) -> str:
    """``value`` with ``digits`` significant digits and grouped thousands; ``–`` for none."""
    if value is None:
        return "–"
    if value == 0:
        return "0"
    if abs(value) >= 10 ** (digits - 1):
        return f"{value:,.0f}"
    return f"{value:.{digits}g}"


def steps(done: int, total: int) -> str:
    """``12/400``, or ``12`` while the total is unknown."""
    return f"{done}/{total}" if total else str(done)
