"""The page's plots of scores: means with intervals, distributions, cost against quality, reference mismatch."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from mapolab.report.axes import reach, show, show_intervals
from mapolab.report.costs import cost
from mapolab.report.mismatch import Mismatch
from mapolab.report.names import scorer_name
from mapolab.report.summary import Comparison, ScoreSummary
from mapolab.report.svg import (
    DASHES,
    INK,
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

# Cost -> title and unit of its axis.
COST_AXES = {
    "wall_seconds": ("training time", "seconds a run"),
    "peak_memory_gib": ("peak memory", "GiB"),
    "teraflops": ("operations", "10\N{SUPERSCRIPT ONE}\N{SUPERSCRIPT TWO} a run"),
}
MANY_POINTS = 5
"""More methods than this need a larger plot."""


def score_plot(comparison: Comparison, score: ScoreSummary) -> Plot:
    """Every method's mean as a dot on its interval, the base's as a line through all."""
    labels = [method.label for method in comparison.everyone]
    with style():
        figure, axes = panel(4.2, 0.75 + 0.3 * len(labels))
        base = score.mean[comparison.base.label].value
        axes.axvline(base, color=method_colour(0), linewidth=0.8, linestyle=DASHES)
        for row, label in enumerate(labels):
            mean, colour = score.mean[label], method_colour(row)
            if mean.known:
                axes.plot([mean.low, mean.high], [row, row], color=colour, linewidth=2.2, solid_capstyle="round")
            axes.plot([mean.value], [row], "o", color=colour, markersize=6)
        _name_rows(axes, [comparison.names[label] for label in labels])
        cut = show_intervals(axes, "x", {comparison.names[label]: score.mean[label] for label in labels})
        svg = render(figure, f"score-{score.name}", f"{scorer_name(score.name)} of each method, with intervals")
    return Plot(scorer_name(score.name), "; ".join(filter(None, [score.about["description"], cut])), svg)


def distribution_plots(comparison: Comparison) -> list[Plot]:
    """How every method's scores are spread over pictures, with quartiles, by each scorer.

    Scores that are only 0 or 1 have no spread to look at and are left out.
    """
    return [_distribution_plot(comparison, score) for score in comparison.scores if score.about["kind"] != "accuracy"]


def _distribution_plot(comparison: Comparison, score: ScoreSummary) -> Plot:
    values = {method.label: method.scores(score.name).values.ravel() for method in comparison.everyone}
    shown = reach(list(values.values()))
    with style():
        figure, axes = panel(4.2, 0.75 + 0.38 * len(values))
        for row, own in enumerate(values.values()):
            colour = method_colour(row)
            seen = own[shown.holds(own)]
            if len(seen) > 1 and seen.std() > 0:
                shape = axes.violinplot(
                    np.log10(seen) if shown.logarithmic else seen,
                    [row],
                    orientation="horizontal",
                    widths=0.85,
                    showextrema=False,
                )["bodies"][0]
                if shown.logarithmic:  # the density is that of the logarithms, as the axis shows it
                    vertices = shape.get_paths()[0].vertices
                    vertices[:, 0] = 10 ** vertices[:, 0]
                shape.set(facecolor=colour, edgecolor="none", alpha=0.3)
            low, middle, high = np.percentile(own, [25, 50, 75])
            axes.plot([low, high], [row, row], color=colour, linewidth=2.2, solid_capstyle="round")
            axes.plot([middle], [row], "o", color=colour, markersize=5)
        _name_rows(axes, [comparison.names[label] for label in values])
        show(axes, "x", shown)
        svg = render(figure, f"spread-{score.name}", f"distribution of {scorer_name(score.name)} for each method")
    return Plot(scorer_name(score.name), shown.note, svg)


def cost_plots(comparison: Comparison) -> list[Plot]:
    """The first score's mean against each cost that is known; none without scores."""
    if not comparison.scores:
        return []
    costs = {field: {method.label: cost(method, field) for method in comparison.trained} for field in COST_AXES}
    return [
        _cost_plot(comparison, field, known)
        for field in COST_AXES
        if (known := {label: value for label, value in costs[field].items() if value is not None})
    ]


def _cost_plot(comparison: Comparison, field: str, costs: dict[str, float]) -> Plot:
    score, (title, unit) = comparison.scores[0], COST_AXES[field]
    base = comparison.base.label
    with style():
        figure, axes = panel(*((5.0, 3.6) if len(costs) > MANY_POINTS else (3.4, 2.5)))
        axes.axhline(score.mean[base].value, color=method_colour(0), linewidth=0.8, linestyle=DASHES)
        ends: list[tuple[float, float, int]] = []
        for label, value in costs.items():
            mean, index = score.mean[label], comparison.place(label)
            colour = method_colour(index)
            if mean.known:
                axes.plot([value, value], [mean.low, mean.high], color=colour, linewidth=1.2, solid_capstyle="round")
            axes.plot([value], [mean.value], method_marker(index), color=colour, markersize=6)
            ends.append((value, mean.value, index))
        axes.set_xlabel(unit)
        axes.set_ylabel(scorer_name(score.name))
        cut = show_intervals(axes, "y", {comparison.names[label]: score.mean[label] for label in [base, *costs]})
        values = np.array(list(costs.values()))
        shown = reach(list(values[:, None]))
        if shown.logarithmic:
            show(axes, "x", shown)
        else:
            axes.set_xlim(0, values.max() * 1.12 or 1)
            axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
        label_ends(axes, ends)
        svg = render(figure, f"cost-{field}", f"{scorer_name(score.name)} against {field} of each method")
    return Plot(title, "; ".join(filter(None, [shown.note, cut])), svg)


def mismatch_plot(comparison: Comparison, points: list[Mismatch]) -> Plot | None:
    """Each method's gain over its base by the first scorer, against the mismatch; None without points."""
    if not comparison.scores or not any(point.gains for point in points):
        return None
    score = comparison.scores[0]
    with style():
        figure, axes = panel(6.4, 4.2 if len(comparison.methods) > MANY_POINTS else 3.2)
        axes.axhline(0, color=MUTED, linewidth=0.8, linestyle=DASHES)
        ends, gains = [], {}
        for method in comparison.methods:
            index = comparison.place(method.label)
            own = sorted(
                ((point.distance, point.gains[method.name]) for point in points if method.name in point.gains),
                key=lambda point: point[0],
            )
            places, colour = [distance for distance, _ in own], method_colour(index)
            look = {"linestyle": method_line(index), "marker": method_marker(index)}
            axes.plot(places, [gain.value for _, gain in own], color=colour, linewidth=1.5, **look)
            for distance, gain in own:
                gains[f"{method.name} at {distance:.3f}"] = gain
                if gain.known:
                    axes.plot([distance] * 2, [gain.low, gain.high], color=colour, linewidth=1, alpha=0.6)
            ends += [(own[-1][0], own[-1][1].value, index)] if own else []
        axes.margins(x=0.08)
        axes.set_xlabel(f"distance of the base's pictures to the chosen ones ({points[0].features})")
        axes.set_ylabel(f"gain in {scorer_name(score.name)}")
        cut = show_intervals(axes, "y", gains)
        label_ends(axes, ends)
        svg = render(figure, "mismatch", f"gain in {scorer_name(score.name)} of each method by reference mismatch")
    return Plot("Reference mismatch", cut, svg)


def _name_rows(axes: Axes, names: list[str]) -> None:
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0, labelcolor=INK, labelsize=9)
    axes.spines["left"].set_visible(False)
    axes.grid(axis="y", visible=False)
