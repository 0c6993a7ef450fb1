"""The page's plots of scores: means with intervals, distributions, cost against quality, reference mismatch."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from mapolab.report.costs import cost
from mapolab.report.mismatch import Mismatch
from mapolab.report.names import scorer_name
from mapolab.report.summary import Comparison, ScoreSummary
from mapolab.report.svg import (
    DASHES,
    INK,
    MUTED,
    label_ends,
    method_colour,
    method_line,
    method_marker,
    panel,
    render,
    style,
)

# Cost -> title and unit of its axis.
COST_AXES = {
    "wall_seconds": ("training time", "seconds a run"),
    "peak_memory_gib": ("peak memory", "GiB"),
    "teraflops": ("operations", "10\N{SUPERSCRIPT ONE}\N{SUPERSCRIPT TWO} a run"),
}
MANY_POINTS = 5
"""More methods than this need a larger plot."""


def score_plots(comparison: Comparison) -> list[str]:
    """One <svg> a scorer: every method's mean as a dot on its interval, the base's as a line through all."""
    return [_score_plot(comparison, score) for score in comparison.scores]


def _score_plot(comparison: Comparison, score: ScoreSummary) -> str:
    labels = [method.label for method in comparison.everyone]
    with style():
        figure, axes = panel(4.2, 0.75 + 0.3 * len(labels))
        base = score.mean[comparison.base.label].value
        axes.axvline(base, color=method_colour(0), linewidth=0.8, linestyle=DASHES)
        for row, label in enumerate(labels):
            mean, colour = score.mean[label], method_colour(row)
            axes.plot([mean.low, mean.high], [row, row], color=colour, linewidth=2.2, solid_capstyle="round")
            axes.plot([mean.value], [row], "o", color=colour, markersize=6)
        _name_rows(axes, [comparison.names[label] for label in labels])
        return render(figure, f"score-{score.name}", f"{scorer_name(score.name)} of each method, with intervals")


def distribution_plots(comparison: Comparison) -> list[tuple[ScoreSummary, str]]:
    """(scorer, <svg>): how every method's scores are spread over pictures, with quartiles.

    Scores that are only 0 or 1 have no spread to look at and are left out.
    """
    return [
        (score, _distribution_plot(comparison, score))
        for score in comparison.scores
        if score.about["kind"] != "accuracy"
    ]


def _distribution_plot(comparison: Comparison, score: ScoreSummary) -> str:
    values = {method.label: method.scores(score.name).values.ravel() for method in comparison.everyone}
    with style():
        figure, axes = panel(4.2, 0.75 + 0.38 * len(values))
        for row, own in enumerate(values.values()):
            colour = method_colour(row)
            if own.std() > 0:
                body = axes.violinplot(own, [row], orientation="horizontal", widths=0.85, showextrema=False)["bodies"][
                    0
                ]
                body.set(facecolor=colour, edgecolor="none", alpha=0.3)
            low, middle, high = np.percentile(own, [25, 50, 75])
            axes.plot([low, high], [row, row], color=colour, linewidth=2.2, solid_capstyle="round")
            axes.plot([middle], [row], "o", color=colour, markersize=5)
        _name_rows(axes, [comparison.names[label] for label in values])
        return render(figure, f"spread-{score.name}", f"distribution of {scorer_name(score.name)} for each method")


def cost_plots(comparison: Comparison) -> list[tuple[str, str]]:
    """(title, <svg>): the first score's mean against each cost that is known; none without scores."""
    if not comparison.scores:
        return []
    found = []
    for field, (title, unit) in COST_AXES.items():
        costs = {method.label: cost(method, field) for method in comparison.trained}
        if any(value is not None for value in costs.values()):
            found.append((title, _cost_plot(comparison, field, costs, unit)))
    return found


def _cost_plot(comparison: Comparison, field: str, costs: dict[str, float | None], unit: str) -> str:
    score = comparison.scores[0]
    with style():
        figure, axes = panel(*((5.0, 3.6) if len(costs) > MANY_POINTS else (3.4, 2.5)))
        axes.axhline(score.mean[comparison.base.label].value, color=method_colour(0), linewidth=0.8, linestyle=DASHES)
        ends: list[tuple[float, float, int]] = []
        for label, value in costs.items():
            if value is None:
                continue
            mean, index = score.mean[label], comparison.place(label)
            colour = method_colour(index)
            axes.plot([value, value], [mean.low, mean.high], color=colour, linewidth=1.2, solid_capstyle="round")
            axes.plot([value], [mean.value], method_marker(index), color=colour, markersize=6)
            ends.append((value, mean.value, index))
        axes.set_xlabel(unit)
        axes.set_ylabel(scorer_name(score.name))
        axes.margins(x=0.12, y=0.12)
        axes.set_xlim(left=0)
        label_ends(axes, ends)
        axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
        return render(figure, f"cost-{field}", f"{scorer_name(score.name)} against {field} of each method")


def mismatch_plot(comparison: Comparison, points: list[Mismatch]) -> str | None:
    """<svg>: each method's gain over its base by the first scorer, against the mismatch; None without points."""
    if not comparison.scores or not points:
        return None
    score = comparison.scores[0]
    with style():
        figure, axes = panel(6.4, 4.2 if len(comparison.methods) > MANY_POINTS else 3.2)
        axes.axhline(0, color=MUTED, linewidth=0.8, linestyle=DASHES)
        ends = []
        for method in comparison.methods:
            name, index = comparison.names[method.label], comparison.place(method.label)
            own = sorted((point.distance, point.gains[name]) for point in points if name in point.gains)
            places, colour = [distance for distance, _ in own], method_colour(index)
            look = {"linestyle": method_line(index), "marker": method_marker(index)}
            axes.plot(places, [gain.value for _, gain in own], color=colour, linewidth=1.5, **look)
            for distance, gain in own:
                axes.plot([distance] * 2, [gain.low, gain.high], color=colour, linewidth=1, alpha=0.6)
            ends += [(own[-1][0], own[-1][1].value, index)] if own else []
        axes.margins(x=0.08)
        axes.set_xlabel(f"distance of the base's pictures to the chosen ones ({points[0].features})")
        axes.set_ylabel(f"gain in {scorer_name(score.name)}")
        label_ends(axes, ends)
        return render(figure, "mismatch", f"gain in {scorer_name(score.name)} of each method by reference mismatch")


def _name_rows(axes: Axes, names: list[str]) -> None:
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0, labelcolor=INK, labelsize=9)
    axes.spines["left"].set_visible(False)
    axes.grid(axis="y", visible=False)
    axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
