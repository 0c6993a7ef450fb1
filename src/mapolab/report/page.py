"""report/index.html: one file with everything inside, which opens from the file system without a network."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from mapolab.report import curves, plots, tables
from mapolab.report.categories import category_table
from mapolab.report.legends import MARKS, difference_legend, legend
from mapolab.report.mismatch import Mismatch
from mapolab.report.names import scorer_name, settings
from mapolab.report.provenance import evaluation_rows, provenance, versions
from mapolab.report.published import published_note, published_rows
from mapolab.report.runs import Method
from mapolab.report.summary import Comparison, ScoreSummary
from mapolab.report.svg import css_colour, key_mark
from mapolab.report.wall import FIRST_ROWS, Wall, build_wall, is_pixelated, shown_runs
from mapolab.report.words import decimals, findings, interval, leader, notes, number, opening, percent, subtitle

MANY_METHODS = 5
"""From more than so many methods on, the findings are a list, and a win-rate matrix takes the page's whole width."""
COMPACT_METHODS = 8
"""With more methods, the cells of a win-rate matrix are small."""
PAGE_BUDGET = 14_900_000
"""Bytes of the whole page, which is to stay below 15 MB."""
LARGE_COLUMNS = 7
"""Up to so many runs abreast, the wall's pictures are large."""


def render_page(comparison: Comparison, mismatches: list[Mismatch]) -> str:
    """The page as HTML text, of at most `PAGE_BUDGET` bytes. mismatches: for their plot, may be none.

    Raises UserError for a missing or broken picture.
    """
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    css = Markup(Path(__file__).with_name("page.css").read_text(encoding="utf-8"))
    script = Markup(Path(__file__).with_name("wall.js").read_text(encoding="utf-8"))
    context = _context(comparison) | _statistics(comparison) | _plots(comparison, mismatches)
    page = environment.get_template("page.html.j2")
    row = environment.get_template("row.html.j2")

    def render(wall: Wall) -> str:
        return page.render(css=css, script=script, wall=wall, **context)

    bare = render(Wall([], 10**9, is_pixelated(comparison)))
    room = PAGE_BUDGET - len(bare.encode())
    return render(
        build_wall(comparison, room, lambda one: Markup(row.render(row=one, runs_shown=context["runs_shown"])))
    )


def _context(comparison: Comparison) -> dict[str, Any]:
    manifest = comparison.methods[0].runs[0].manifest
    shown = [run for method in comparison.everyone for run in shown_runs(method, comparison)]
    pictures = len(comparison.base.runs[0].pictures)
    return {
        "name": manifest.get("name", "comparison").replace("_", " "),
        "subtitle": subtitle(comparison, pictures, MANY_METHODS),
        "opening": opening(comparison),
        "base_name": comparison.base_name,
        "findings": findings(comparison),
        "leader": leader(comparison),
        "many": len(comparison.methods) > MANY_METHODS,
        "compact": len(comparison.methods) > COMPACT_METHODS,
        "legend": legend(comparison),
        "methods": _methods(comparison),
        "scores": [_score(comparison, score) for score in comparison.scores],
        "runs_shown": _runs_shown(comparison),
        "first_rows": FIRST_ROWS,
        "cost": tables.cost_table(comparison) if comparison.trained else None,
        "columns": len(shown),
        "one_seed": len(shown) < sum(len(method.runs) for method in comparison.everyone),
        "wall_class": _wall_class(len(shown), is_pixelated(comparison)),
        "evaluation": evaluation_rows(comparison),
        "runs": [provenance(comparison, method, run) for method in comparison.everyone for run in method.runs],
        "versions": versions(comparison),
    }


def _statistics(comparison: Comparison) -> dict[str, Any]:
    names = [score.name for score in comparison.scores]
    return {
        "differences": tables.difference_table(comparison) if comparison.scores else None,
        "differences_legend": difference_legend(comparison),
        "categories": category_table(comparison) if comparison.scores else None,
        "published": [[method, *figures] for method, figures in published_rows(names)],
        "published_source": published_note(comparison.settings),
        "score_names": [scorer_name(name) for name in names],
        "notes": notes(comparison),
    }


def _plots(comparison: Comparison, mismatches: list[Mismatch]) -> dict[str, Any]:
    mismatch = plots.mismatch_plot(comparison, mismatches)
    spreads = plots.distribution_plots(comparison)
    return {
        "score_plots": [Markup(svg) for svg in plots.score_plots(comparison)],
        "spreads": [(scorer_name(score.name), Markup(svg)) for score, svg in spreads],
        "cost_plots": [(title, Markup(svg)) for title, svg in plots.cost_plots(comparison)],
        "mismatch": Markup(mismatch) if mismatch else None,
        "mismatch_numbers": tables.mismatch_table(comparison, mismatches) if mismatch else None,
        "seeds_beside": len(comparison.methods) <= curves.SEEDS_BESIDE,
        "curves": [(title, about, Markup(svg)) for title, about, svg in curves.curve_plots(comparison)],
        "curve_averaging": curves.curve_averaging(comparison),
    }


def _runs_shown(comparison: Comparison) -> list[dict[str, str]]:
    """The wall's columns: each run's method, and its name."""
    shown = []
    for method in comparison.everyone:
        name = comparison.names[method.label]
        several = len(method.runs) > 1
        runs = shown_runs(method, comparison)
        shown += [{"method": name, "name": f"{name}, seed {run.seed}" if several else name} for run in runs]
    return shown


def _wall_class(columns: int, pixelated: bool) -> str:
    size = "large" if columns <= LARGE_COLUMNS else "small"
    return f"wall {size} pixelated" if pixelated else f"wall {size}"


def _methods(comparison: Comparison) -> list[dict[str, Any]]:
    return [
        {
            "name": comparison.names[method.label],
            "settings": _aside(comparison.names[method.label], method),
            "colour": css_colour(index),
            "mark": partial(key_mark, index),
            "seeds": list(method.seeds),
            "columns": [run.seed for run in shown_runs(method, comparison)],
        }
        for index, method in enumerate(comparison.everyone)
    ]


def _aside(name: str, method: Method) -> str:
    """What stands small under a method's name: `beta=8, 3 seeds`."""
    untold = [setting for setting in settings(method.label) if setting not in name.split()]
    return ", ".join([*untold, *([f"{len(method.seeds)} seeds"] if len(method.seeds) > 1 else [])])


def _score(comparison: Comparison, score: ScoreSummary) -> dict[str, Any]:
    labels = [method.label for method in comparison.everyone]
    return {
        "name": scorer_name(score.name),
        "key": score.name,
        "arrow": tables.arrow(score),
        "better": "higher is better" if score.higher_is_better else "lower is better",
        "description": score.about["description"],
        "cells": [_cell(comparison, score, label) for label in labels],
        "wins": [[_win(score, label, other) for other in labels] for label in labels],
    }


def _cell(comparison: Comparison, score: ScoreSummary, label: str) -> dict[str, str]:
    base = comparison.base.label
    digits = decimals(list(score.mean.values()))
    verdict = score.verdict(label)
    return {
        "mean": number(score.mean[label].value, digits),
        "interval": interval(score.mean[label], digits),
        "wins": "" if label == base else percent(score.win_rate[label][base].value),
        "verdict": verdict,
        "mark": MARKS[verdict],
    }


def _win(score: ScoreSummary, label: str, other: str) -> dict[str, Any] | None:
    """A cell of the win-rate matrix; strength: -1 (always loses) .. 1 (always wins); None against itself."""
    if label == other:
        return None
    rate = score.win_rate[label][other]
    return {
        "rate": percent(rate.value),
        "interval": f"{round(100 * rate.low)}\N{EN DASH}{round(100 * rate.high)}",
        "strength": round(2 * rate.value - 1, 3),
        "clear": score.win_is_clear(label, other),
    }
