"""Plots as SVG text, to be put into a page as they are: no script, no font, no file.

Every text that comes from data is escaped here. Colours follow the page's light or dark
scheme through CSS variables that ``report_html`` defines.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

WIDTH = 720
LEFT = 150
RIGHT = 20
BAR = 14
GAP = 12

Interval = tuple[float, float] | None


def bars(
    groups: Sequence[str],
    series: Sequence[str],
    values: Sequence[Sequence[float | None]],
    intervals: Sequence[Sequence[Interval]],
    *,
    title: str,
    x_title: str,
) -> str:
    """Horizontal bars from 0 to 1: ``values[group][series]``, with whiskers.

    What has no value has no bar.
    """
    height_of_group = len(series) * BAR + GAP
    top = 24 + 18 * len(series)
    height = top + height_of_group * len(groups) + 44
    span = WIDTH - LEFT - RIGHT
    parts = [_open(height, title)]
    for n, name in enumerate(series):
        parts.append(_rect(LEFT, 8 + 18 * n, 12, 12, n))
        parts.append(_text(LEFT + 18, 18 + 18 * n, name))
    for tick in range(0, 11, 2):
        x = LEFT + span * tick / 10
        parts.append(_line(x, top, x, height - 40, "grid"))
        parts.append(_text(x, height - 24, f"{tick / 10:.1f}", "middle"))
    parts.append(_text(LEFT + span / 2, height - 5, x_title, "middle"))
    for g, name in enumerate(groups):
        y = top + g * height_of_group
        parts.append(_text(LEFT - 8, y + height_of_group / 2, name, "end"))
        for n, (value, interval) in enumerate(zip(values[g], intervals[g], strict=True)):
            if value is None:
                continue
            middle = y + n * BAR + BAR / 2 + 2
            parts.append(_rect(LEFT, middle - 5, span * _unit(value), 10, n))
            if interval:
                low, high = (LEFT + span * _unit(end) for end in interval)
                # A light edge first, so that they are seen on any bar.
                for kind in ("halo", "whisker"):
                    parts.append(_line(low, middle, high, middle, kind))
                    for end in (low, high):
                        parts.append(_line(end, middle - 3, end, middle + 3, kind))
    return "".join([*parts, "</svg>"])


def lines(
    labels: Sequence[str],
    series: Sequence[str],
    values: Sequence[Sequence[float | None]],
    intervals: Sequence[Sequence[Interval]],
    *,
    title: str,
    x_title: str,
) -> str:
    """Lines over equally spaced ``labels``: ``values[series][label]``, each from 0 to 1.

    Whiskers of the series stand beside each other.
    """
    legend = 18 * ((len(series) + 1) // 2)
    top, bottom, height = 16 + legend, 40, 300 + legend
    left = 50.0
    span, rise = WIDTH - left - RIGHT, height - top - bottom
    parts = [_open(height, title)]
    for n, name in enumerate(series):
        x, y = left + (n % 2) * span / 2, 8.0 + 18 * (n // 2)
        parts.append(_rect(x, y, 12, 12, n))
        parts.append(_text(x + 18, y + 10, name))
    for tick in range(0, 11, 2):
        y = top + rise * (1 - tick / 10)
        parts.append(_line(left, y, WIDTH - RIGHT, y, "grid"))
        parts.append(_text(left - 6, y + 4, f"{tick / 10:.1f}", "end"))
    places = [left + span * (n + 0.5) / len(labels) for n in range(len(labels))]
    for x, label in zip(places, labels, strict=True):
        parts.append(_text(x, height - 22, label, "middle"))
    parts.append(_text(left + span / 2, height - 5, x_title, "middle"))
    for n, column in enumerate(values):
        aside = 5 * (n - (len(values) - 1) / 2)
        points = []
        for x, value, interval in zip(places, column, intervals[n], strict=True):
            if value is None:
                continue
            points.append((x + aside, top + rise * (1 - _unit(value))))
            if interval:
                low, high = (top + rise * (1 - _unit(end)) for end in interval)
                parts.append(_line(x + aside, low, x + aside, high, f"line c{n % 8}"))
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        parts.append(f'<polyline class="line c{n % 8}" points="{path}"/>')
        parts += [
            f'<circle class="c{n % 8}" cx="{x:.1f}" cy="{y:.1f}" r="3"/>' for x, y in points
        ]
    return "".join([*parts, "</svg>"])


def _unit(value: float) -> float:
    return min(1.0, max(0.0, value))


def _open(height: float, title: str) -> str:
    return (
        f'<svg viewBox="0 0 {WIDTH} {height:.0f}" role="img" '
        f'xmlns="http://www.w3.org/2000/svg"><title>{escape(title)}</title>'
    )


def _rect(x: float, y: float, width: float, height: float, series: int) -> str:
    return (
        f'<rect class="c{series % 8}" x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" '
        f'height="{height:.1f}"/>'
    )


def _line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    return f'<line class="{kind}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def _text(x: float, y: float, text: str, anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'
