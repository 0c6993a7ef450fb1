"""The page's training curves."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from mapolab.report.runs import Method
from mapolab.report.summary import Comparison
from mapolab.report.svg import (
    DASHES,
    MUTED,
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
POINTS = 200
"""At most this many points a curve; longer ones are averaged in blocks, which also keeps the page small."""
SEEDS_BESIDE = 5
"""Up to so many methods, each seed's own curve is drawn behind the mean."""


def curve_plots(comparison: Comparison) -> list[tuple[str, str, str]]:
    """(title, explanation, <svg>) for each curve that any run has, against the optimizer step."""
    return [
        (title, explanation, _curve_plot(comparison, column))
        for column, (title, explanation) in CURVES.items()
        if any(_has(run.metrics, column) for method in comparison.methods for run in method.runs)
    ]


def curve_averaging(comparison: Comparison) -> int:
    """How many steps one point of a mean curve stands for, in the longest run."""
    steps = max((len(run.metrics.get("step", ())) for method in comparison.methods for run in method.runs), default=0)
    return _window(steps) * _block(steps)


def _curve_plot(comparison: Comparison, column: str) -> str:
    with style():
        many = len(comparison.methods) > SEEDS_BESIDE
        figure, axes = panel(*((5.0, 3.4) if many else (3.4, 2.3)))
        drawn = {
            comparison.place(method.label): _draw_method(axes, method, column, comparison)
            for method in comparison.methods
        }
        axes.margins(x=0.01)
        _leave_out_spikes(axes)
        axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
        axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10], integer=True))
        if column == "implicit_accuracy":
            axes.axhline(0.5, color=MUTED, linewidth=0.8, linestyle=DASHES)
        axes.set_xlabel("step")
        label_ends(axes, [(*end, index) for index, end in drawn.items() if end])
        return render(figure, f"curve-{column}", f"{column} of each method against the training step")


def _draw_method(axes: Axes, method: Method, column: str, comparison: Comparison) -> tuple[float, float] | None:
    """Thin: each seed as it was, where the methods are few. Thick: the mean over seeds, as a running mean, whose end is
    returned."""
    curves = [_blocks(run.metrics["step"], run.metrics[column]) for run in method.runs if _has(run.metrics, column)]
    if not curves:
        return None
    index = comparison.place(method.label)
    colour = method_colour(index)
    for steps, values in curves if len(comparison.methods) <= SEEDS_BESIDE else []:
        axes.plot(steps, values, color=colour, linewidth=0.7, alpha=0.35)
    shortest = min(len(steps) for steps, _ in curves)
    mean = running_mean(np.mean([values[:shortest] for _, values in curves], axis=0), _window(shortest))
    steps = curves[0][0][:shortest]
    look = {"linestyle": method_line(index), "marker": method_marker(index), "markersize": 4.5}
    # Markers stand apart, and not all methods' in one place.
    apart = max(shortest // 6, 1)
    axes.plot(steps, mean, color=colour, linewidth=1.6, markevery=(index * apart // 7 % apart, apart), **look)
    return float(steps[-1]), float(mean[-1])


def _leave_out_spikes(axes: Axes) -> None:
    """End the axis where 98% of what is drawn lies, if the rest would flatten it to less than a third."""
    drawn = np.concatenate([line.get_ydata() for line in axes.lines])
    low, high = np.nanpercentile(drawn, [1, 99])
    if 0 < 3 * (high - low) < np.nanmax(drawn) - np.nanmin(drawn):
        axes.set_ylim(low - 0.05 * (high - low), high + 0.05 * (high - low))


def _has(metrics: dict[str, np.ndarray], column: str) -> bool:
    return column in metrics and np.isfinite(metrics[column]).any()


def _block(steps: int) -> int:
    return max(1, -(-steps // POINTS))


def _window(points: int) -> int:
    """An odd width of about an eighth of what is drawn, 1 for the shortest runs."""
    return 2 * (min(points, POINTS) // 16) + 1 if points >= 16 else 1


def _blocks(*columns: np.ndarray) -> Iterable[np.ndarray]:
    """Means over blocks of consecutive steps, so that at most `POINTS` are left; the last block may be short."""
    block = _block(len(columns[0]))
    starts = np.arange(0, len(columns[0]), block)
    sizes = np.diff([*starts, len(columns[0])])
    return tuple(np.add.reduceat(column, starts) / sizes for column in columns)


def running_mean(values: np.ndarray, width: int) -> np.ndarray:
    """(N,) -> (N,) means over `width` neighbours, over as many as there are at the ends."""
    kernel = np.ones(width)
    return np.convolve(values, kernel, "same") / np.convolve(np.ones(len(values)), kernel, "same")
