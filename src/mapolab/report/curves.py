"""The page's training curves."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from mapolab.report.axes import Reach, reach, show
from mapolab.report.runs import Method, Run
from mapolab.report.summary import Comparison
from mapolab.report.svg import (
    DASHES,
    MUTED,
    Plot,
    label_ends,
    method_colour,
    method_line,
    method_marker,
    panel,
    render,
    style,
)

# Column of metrics.csv -> title and what it is.
CURVES = {
    "loss": ("loss", "each method's own, so not on one scale"),
    "error_chosen": ("error, chosen", "on the preferred pictures"),
    "error_rejected": ("error, rejected", "on the other pictures"),
    "margin": ("margin", "as the method's preference term sees it"),
    "implicit_accuracy": ("implicit accuracy", "share of pairs ranked as preferred"),
    "reward": ("reward", "mean over a round's pictures, of methods that draw their own"),
    "gradient_norm": ("gradient norm", "before clipping"),
}
BOUNDED = {"implicit_accuracy": (-0.02, 1.02)}
POINTS = 200
"""At most this many points a curve; longer ones are averaged in blocks, which also keeps the page small."""
SEEDS_BESIDE = 5
"""Up to so many methods, each seed's own curve is drawn behind the mean."""


def curve_plots(comparison: Comparison) -> list[Plot]:
    """One for each curve that any run has, against the optimizer step."""
    return [
        _curve_plot(comparison, column)
        for column in CURVES
        if any(_has(run.metrics, column) for method in comparison.methods for run in method.runs)
    ]


def curve_averaging(comparison: Comparison) -> int:
    """How many steps one point of a mean curve stands for, in the longest run."""
    steps = max((len(run.metrics.get("step", ())) for method in comparison.methods for run in method.runs), default=0)
    return _window(steps) * _block(steps)


def _curve_plot(comparison: Comparison, column: str) -> Plot:
    title, about = CURVES[column]
    having = {method.label: [run for run in method.runs if _has(run.metrics, column)] for method in comparison.methods}
    # By the steps as they were: in a mean over neighbours, a spike would look like many.
    values = [np.concatenate([run.metrics[column] for run in runs]) for runs in having.values() if runs]
    shown = reach(values, BOUNDED.get(column))
    with style():
        many = len(comparison.methods) > SEEDS_BESIDE
        figure, axes = panel(*((5.0, 3.4) if many else (3.4, 2.3)))
        drawn = {
            comparison.place(method.label): _draw_method(axes, method, having[method.label], column, comparison, shown)
            for method in comparison.methods
            if having[method.label]
        }
        axes.margins(x=0.01)
        show(axes, "y", shown)
        axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10], integer=True))
        if column == "implicit_accuracy":
            axes.axhline(0.5, color=MUTED, linewidth=0.8, linestyle=DASHES)
        axes.set_xlabel("step")
        label_ends(axes, [(*end, index) for index, end in drawn.items() if end])
        svg = render(figure, f"curve-{column}", f"{column} of each method against the training step")
    return Plot(title, "; ".join(filter(None, [about, shown.note])), svg)


def _draw_method(
    axes: Axes, method: Method, runs: list[Run], column: str, comparison: Comparison, shown: Reach
) -> tuple[float, float] | None:
    """Thin: each seed as it was, where the methods are few. Thick: the mean over seeds, as a running mean of what lies
    on the axis, whose end is returned."""
    index = comparison.place(method.label)
    colour = method_colour(index)
    block = max(_block(len(run.metrics["step"])) for run in runs)
    steps = [_blocks(run.metrics["step"], block) for run in runs]
    for own, run in zip(steps, runs, strict=True) if len(comparison.methods) <= SEEDS_BESIDE else []:
        values = _blocks(run.metrics[column], block)
        known = np.isfinite(values)
        axes.plot(own[known], values[known], color=colour, linewidth=0.7, alpha=0.35)
    shortest = min(map(len, steps))
    on_axis = [np.where(shown.holds(run.metrics[column]), run.metrics[column], np.nan) for run in runs]
    mean = _mean(np.stack([_blocks(values, block)[:shortest] for values in on_axis]))
    known = np.isfinite(mean)
    if not known.any():
        return None
    steps, mean = steps[0][:shortest][known], running_mean(mean[known], _window(known.sum()))
    # Markers stand apart, and not all methods' in one place.
    apart = max(len(steps) // 6, 1)
    look = {"linestyle": method_line(index), "marker": method_marker(index), "markersize": 4.5}
    axes.plot(steps, mean, color=colour, linewidth=1.6, markevery=(index * apart // 7 % apart, apart), **look)
    return float(steps[-1]), float(mean[-1])


def _has(metrics: dict[str, np.ndarray], column: str) -> bool:
    return column in metrics and np.isfinite(metrics[column]).any()


def _block(steps: int) -> int:
    return max(1, -(-steps // POINTS))


def _window(points: int) -> int:
    """An odd width of about an eighth of what is drawn, 1 for the shortest runs."""
    return 2 * (min(points, POINTS) // 16) + 1 if points >= 16 else 1


def _blocks(values: np.ndarray, block: int) -> np.ndarray:
    """Means over blocks of consecutive steps, of what is finite in each; the last block may be short."""
    starts = np.arange(0, len(values), block)
    known = np.isfinite(values)
    counts = np.add.reduceat(known.astype(float), starts)
    sums = np.add.reduceat(np.where(known, values, 0.0), starts)
    return np.divide(sums, counts, out=np.full(len(starts), np.nan), where=counts > 0)


def _mean(curves: np.ndarray) -> np.ndarray:
    """(S, N) -> (N,), of what is known at each point."""
    known = np.isfinite(curves)
    sums, counts = np.where(known, curves, 0.0).sum(0), known.sum(0)
    return np.divide(sums, counts, out=np.full(curves.shape[1], np.nan), where=counts > 0)


def running_mean(values: np.ndarray, width: int) -> np.ndarray:
    """(N,) -> (N,) means over `width` neighbours, over as many as there are at the ends."""
    kernel = np.ones(width)
    return np.convolve(values, kernel, "same") / np.convolve(np.ones(len(values)), kernel, "same")
