"""Training and validation loss over steps, of one run or of two.

Importing this module loads numpy (through textual-plot), so a screen imports it
when it opens a run. Curves are averaged down to the width of the plot before they
are drawn: drawing costs time for each point.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from textual_plot import HiResMode, PlotWidget
from textual_plot.axis_formatter import AxisFormatter

from tui.history import Curve

POINTS_PER_CELL = 2  # a braille cell is two dots wide
CELLS_PER_STEP_TICK, ROWS_PER_LOSS_TICK = 14, 2
SMALLEST = 1e-6
NICE = (1, 2, 5)
OTHER_MARKS = ("×", "◆")  # train, validation


class StepTicks(AxisFormatter):
    """Whole steps at round distances, at most ``most`` of them or one more."""

    def __init__(self, most: int) -> None:
        self.most = most

    def get_ticks(self, min_: float, max_: float, max_ticks: int = 8) -> list[float]:
        """Multiples of 1, 2 or 5 × 10ⁿ."""
        distance = max(1, round(_nice(max_ - min_, min(max_ticks, self.most))))
        first = math.ceil(min_ / distance) * distance
        return [float(tick) for tick in range(first, math.floor(max_) + 1, distance)]

    def get_labels_for_ticks(self, ticks: Sequence[float]) -> list[str]:
        """Thousands are grouped."""
        return [f"{tick:,.0f}" for tick in ticks]


class LossTicks(AxisFormatter):
    """Losses; with ``log`` the axis is in log10 and the labels are not."""

    def __init__(self, most: int, *, log: bool) -> None:
        self.most = most
        self.log = log

    def get_ticks(self, min_: float, max_: float, max_ticks: int = 8) -> list[float]:
        """Round losses within the axis."""
        max_ticks = min(max_ticks, self.most)
        if self.log:
            exponents = range(math.floor(min_), math.ceil(max_) + 1)
            ticks = [e + math.log10(digit) for e in exponents for digit in NICE]
            inside = [tick for tick in ticks if min_ <= tick <= max_]
            inside = inside[:: max(1, math.ceil(len(inside) / max_ticks))]
        else:
            distance = _nice(max_ - min_, max_ticks)
            first, last = math.ceil(min_ / distance), math.floor(max_ / distance)
            inside = [distance * i for i in range(first, last + 1)]
        # One round number alone gives no scale.
        return inside if len(inside) >= 2 else [min_, (min_ + max_) / 2, max_]

    def get_labels_for_ticks(self, ticks: Sequence[float]) -> list[str]:
        """Three significant digits, or as many as tell neighbours apart."""
        values = [10**tick if self.log else tick for tick in ticks]
        labels = [f"{value:.3g}" for value in values]
        for digits in (4, 5, 6):
            if len(set(labels)) == len(labels):
                break
            labels = [f"{value:.{digits}g}" for value in values]
        return labels


class LossPlot(PlotWidget):
    """Both curves; never in focus, so that the keys stay with the screen."""

    COMPONENT_CLASSES = {
        "loss-plot--train",
        "loss-plot--validation",
        "loss-plot--other",
    }

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id, allow_pan_and_zoom=False)
        self.can_focus = False
        self._train, self._validation, self._log = Curve(), Curve(), False
        self._other = (Curve(), Curve())

    def on_mount(self) -> None:
        """Leave little room around the axes."""
        self.margin_top, self.margin_bottom, self.margin_left = 0, 1, 8

    def on_resize(self) -> None:
        """Fit points and ticks to the new size."""
        self._draw()

    def show(
        self,
        train: Curve,
        validation: Curve,
        *,
        log: bool,
        other: tuple[Curve, Curve] = (Curve(), Curve()),
    ) -> None:
        """Draw both curves; ``log`` makes the loss axis logarithmic.

        Args:
            train, validation: of the run.
            other: the same of a second run, drawn with marks instead of a line.
        """
        self._train, self._validation, self._log = train, validation, log
        self._other = other
        self._draw()

    def _draw(self) -> None:
        log = self._log
        self.clear()
        limit = max(8, self.size.width * POINTS_PER_CELL)
        curves = [downsample(c, limit, log=log) for c in (self._train, self._validation)]
        # Marks far apart: those that touch would look like a line, and hide the other one.
        others = [downsample(c, max(4, self.size.width // 4), log=log) for c in self._other]
        steps = np.concatenate([x for x, _ in curves + others])
        values = np.concatenate([y for _, y in curves + others])
        self.set_x_formatter(StepTicks(max(1, self.size.width // CELLS_PER_STEP_TICK)))
        rows = max(1, self.size.height // ROWS_PER_LOSS_TICK)
        self.set_y_formatter(LossTicks(min(rows, 6), log=log))
        # Empty axes have no scale yet.
        self.set_xticks(None if len(steps) else [])
        self.set_yticks(None if len(steps) else [])
        self.set_xlimits(*_limits(steps, 0.0, least=1.0))
        self.set_ylimits(*_limits(values, 0.05, least=0.02))
        # What is drawn later hides what is in the same cell: lines come before marks.
        marks = [
            (*curve, mark, "other") for curve, mark in zip(others, OTHER_MARKS, strict=True)
        ]
        for (x, y), name in zip(curves, ("train", "validation"), strict=True):
            sparse = len(x) == 1 or (name == "validation" and len(x) <= self.size.width // 4)
            if sparse:
                marks.append((x, y, "●", name))
            elif len(x):
                style = str(self.get_component_rich_style(f"loss-plot--{name}"))
                self.plot(x, y, style, HiResMode.BRAILLE)
        for x, y, mark, name in marks:
            if len(x):
                style = str(self.get_component_rich_style(f"loss-plot--{name}"))
                self.scatter(x, y, mark, style)


def downsample(curve: Curve, limit: int, *, log: bool) -> tuple[np.ndarray, np.ndarray]:
    """At most ``limit`` points: means over runs of neighbours of about equal length.

    Returns:
        Steps and values, both float64 of the same length; with ``log`` the values
        are log10, and losses of 0 count as 1e-6.
    """
    x = np.asarray(curve.steps, dtype=np.float64)
    y = np.asarray(curve.values, dtype=np.float64)
    if len(x) > limit:
        starts = np.linspace(0, len(x), limit, endpoint=False).astype(int)
        counts = np.diff(np.append(starts, len(x)))
        x = np.add.reduceat(x, starts) / counts
        y = np.add.reduceat(y, starts) / counts
    return x, np.log10(np.maximum(y, SMALLEST)) if log else y


def _limits(values: np.ndarray, margin: float, *, least: float) -> tuple[float, float]:
    """The range of ``values``, at least ``least`` wide, with a share of it on both sides."""
    if not len(values):
        return 0.0, 1.0
    low, high = float(values.min()), float(values.max())
    # Wide enough for a float to tell both ends apart, however large they are.
    least = max(least, abs(high) * 1e-6)
    if high - low < least:
        low, high = low - least / 2, high + least / 2
    space = (high - low) * margin
    return low - space, high + space


def _nice(span: float, parts: int) -> float:
    """The smallest 1, 2 or 5 × 10ⁿ that fits into ``span`` at most ``parts`` times."""
    scale = 10 ** math.floor(math.log10(span / parts))
    return next(n * scale for n in (*NICE, 10, 20) if span / (n * scale) <= parts)
