"""How far the axis of a plot goes, and what is said of values that lie beyond it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from mapolab.evaluation.intervals import Estimate

FLATTENED = 3
"""The axis ends before the outermost values where these would squeeze all others into less than a third of it."""
ORDERS = 30
"""Positive values whose usual range spans such a factor stand on a logarithmic axis."""
MOST_BEYOND = 0.05
"""At most this share of the values lies beyond an axis, or else all are shown."""
VANISHING = 1e-3
"""On a logarithmic axis, how far below a method's median its values are followed."""
FENCE = 3
"""Interquartile ranges beyond a quartile, from where on Tukey calls a value far out."""


@dataclass(frozen=True)
class Reach:
    """What an axis shows: low..high, and what lies beyond it. About `total` values, of which `lost` are not finite."""

    low: float
    high: float
    logarithmic: bool
    total: int
    lost: int
    beyond: tuple[float, ...]

    def holds(self, values: np.ndarray) -> np.ndarray:
        """Which of the values lie on the axis."""
        return np.isfinite(values) & (values >= self.low) & (values <= self.high)

    @property
    def note(self) -> str:
        """What a reader must know to read the plot right; empty where all is to be seen on an ordinary axis."""
        told = ["logarithmic axis"] if self.logarithmic else []
        if self.beyond:
            farthest = max(self.beyond, key=self._distance)
            lie, how_far = ("lies", "") if len(self.beyond) == 1 else ("lie", ", the farthest")
            told.append(
                f"{len(self.beyond):,} of {self.total:,} values {lie} beyond the axis{how_far} at {figure(farthest)}"
            )
        if self.lost:
            told.append(f"{self.lost:,} of {self.total:,} values {'is' if self.lost == 1 else 'are'} not finite")
        return "; ".join(told)

    def _distance(self, value: float) -> float:
        """Of a value from the axis, in the axis's own measure."""
        if not self.logarithmic:
            return max(value - self.high, self.low - value)
        return max(math.log(value / self.high), math.log(self.low / value)) if value > 0 else math.inf


def figure(value: float) -> str:
    """Four digits: 1,100; 0.0123."""
    text = f"{value:,.4g}" if 1e-4 <= abs(value) < 1e7 else f"{value:.4g}"
    return text.replace("-", "\N{MINUS SIGN}", 1)


def reach(groups: Sequence[np.ndarray], limits: tuple[float, float] | None = None) -> Reach:
    """Of the values of several methods, each an array of any length; at least one value must be finite.

    Each method's usual range is kept whole, as far as its values go without one that lies far out (Tukey), so that a
    method on another scale is no outlier. limits: the range of a bounded quantity, which is then shown whole.
    """
    finite = [values[np.isfinite(values)] for values in map(np.ravel, groups)]
    finite = [values for values in finite if len(values)]
    everything = np.concatenate(finite)
    total = sum(np.size(values) - np.isnan(values).sum() for values in groups)
    lost = int(sum(np.isinf(values).sum() for values in groups))
    if limits:
        low, high, logarithmic = *limits, False
    else:
        low, high, logarithmic = _usual(finite, everything)
    beyond = everything[(everything < low) | (everything > high)]
    return Reach(low, high, logarithmic, int(total), lost, tuple(beyond.tolist()))


def _usual(groups: list[np.ndarray], everything: np.ndarray) -> tuple[float, float, bool]:
    """(low, high, whether logarithmic), with a margin."""
    usual = [_without_far_out(values) for values in groups]
    low, high = min(values.min() for values in usual), max(values.max() for values in usual)
    if (positive := everything[everything > 0]).size and low > 0 and high / low >= ORDERS:
        low = min(_above_vanishing(values).min() for values in usual)
        low, high = _cut(np.log10(low), np.log10(high), np.log10(positive[positive >= low]))
        return 10**low, 10**high, True
    return *_cut(low, high, everything), False


def _cut(low: float, high: float, everything: np.ndarray) -> tuple[float, float]:
    """The usual range with a margin, or the whole one: where it is not much larger, or too many values lie outside."""
    outside = int(((everything < low) | (everything > high)).sum())
    whole = np.ptp(everything) <= FLATTENED * (high - low) or low == high
    if whole or outside > max(1, MOST_BEYOND * len(everything)):
        low, high = everything.min(), everything.max()
    margin = _margin(low, high)
    return float(low - margin), float(high + margin)


def _without_far_out(values: np.ndarray) -> np.ndarray:
    """All of them where most are equal, as of shares that are mostly 1."""
    first, third = np.percentile(values, [25, 75])
    if first == third:
        return values
    fence = FENCE * (third - first)
    return values[(values >= first - fence) & (values <= third + fence)]


def _above_vanishing(values: np.ndarray) -> np.ndarray:
    """A loss that goes to 0 would take the axis down to 1e-40."""
    return values[values >= VANISHING * np.median(values)]


def show(axes: Axes, which: Literal["x", "y"], found: Reach) -> None:
    """Give an axis of the plot this range, its scale and plain figures."""
    axis = axes.xaxis if which == "x" else axes.yaxis
    if found.logarithmic:
        (axes.set_xscale if which == "x" else axes.set_yscale)("log")
    (axes.set_xlim if which == "x" else axes.set_ylim)(found.low, found.high)
    if found.logarithmic:
        axis.set_major_locator(LogLocator(10, numticks=6))
        axis.set_major_formatter(FuncFormatter(lambda value, _: figure(value)))
        axis.set_minor_formatter(NullFormatter())
    else:
        axis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))


def show_intervals(axes: Axes, which: Literal["x", "y"], estimates: dict[str, Estimate]) -> str:
    """End an axis where every value is seen, and every interval but those that are much wider than the others; returns
    what is to be said of these. estimates: by name."""
    values = np.array([estimate.value for estimate in estimates.values()])
    known = [(estimate.low, estimate.high) for estimate in estimates.values() if estimate.known]
    ends = np.array(known or [(values.min(), values.max())])
    most = 2 * max(np.ptp(values), float(np.median(np.ptp(ends, axis=1))))
    low = min(values.min(), max(values.min() - most, ends.min()))
    high = max(values.max(), min(values.max() + most, ends.max()))
    margin = _margin(low, high)
    shown = Reach(low - margin, high + margin, False, 0, 0, ())
    show(axes, which, shown)
    cut = [
        f"the interval of {name} goes on, {figure(estimate.low)} to {figure(estimate.high)}"
        for name, estimate in estimates.items()
        if estimate.known and not (estimate.low >= shown.low and estimate.high <= shown.high)
    ]
    return "; ".join(cut)


def _margin(low: float, high: float) -> float:
    return 0.05 * (high - low) or 0.05 * abs(high) or 0.05
