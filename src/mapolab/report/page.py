"""report/index.html: one file with everything inside, which opens from the file system without a network."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from mapolab.report import curves, plots, tables
from mapolab.report.categories import category_table
from mapolab.report.legends import MARKS, difference_legend, legend
from mapolab.report.mismatch import Mismatch
from mapolab.report.names import scorer_name, settings
from mapolab.report.published import SOURCE, published_rows
from mapolab.report.runs import Method, Run, flatten
from mapolab.report.summary import Comparison, ScoreSummary
from mapolab.report.svg import css_colour
from mapolab.report.wall import FIRST_ROWS, build_wall
from mapolab.report.words import decimals, findings, interval, leader, notes, number, opening, percent, subtitle

MANY_METHODS = 5
"""From more than so many methods on, the findings are a list, and a win-rate matrix takes the page's whole width."""
LARGE_COLUMNS = 7
"""Up to so many runs abreast, the wall's pictures are large."""


def render_page(comparison: Comparison, mismatches: list[Mismatch]) -> str:
    """The page as HTML text. mismatches: for their plot, may be none. Raises UserError for a missing picture."""
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
    return environment.get_template("page.html.j2").render(css=css, script=script, **context)


def _context(comparison: Comparison) -> dict[str, Any]:
    manifest = comparison.methods[0].runs[0].manifest
    wall = build_wall(comparison)
    columns = sum(len(method.runs) for method in comparison.everyone)
    return {
        "name": manifest.get("name", "comparison").replace("_", " "),
        "subtitle": subtitle(comparison, wall.total, MANY_METHODS),
        "opening": opening(comparison),
        "base_name": comparison.base_name,
        "findings": findings(comparison),
        "leader": leader(comparison),
        "many": len(comparison.methods) > MANY_METHODS,
        "legend": legend(comparison),
        "methods": _methods(comparison),
        "scores": [_score(comparison, score) for score in comparison.scores],
        "runs_shown": _runs_shown(comparison),
        "first_rows": FIRST_ROWS,
        "cost": tables.cost_table(comparison) if comparison.trained else None,
        "wall": wall,
        "columns": columns,
        "wall_class": _wall_class(columns, wall.pixelated),
        "evaluation": _evaluation(comparison),
        "runs": [_provenance(comparison, method, run) for method in comparison.everyone for run in method.runs],
        "versions": _versions(comparison),
    }


def _statistics(comparison: Comparison) -> dict[str, Any]:
    names = [score.name for score in comparison.scores]
    return {
        "differences": tables.difference_table(comparison) if comparison.scores else None,
        "differences_legend": difference_legend(comparison),
        "categories": category_table(comparison) if comparison.scores else None,
        "published": [[method, *figures] for method, figures in published_rows(names)],
        "published_source": SOURCE,
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
        "curves": [(title, about, Markup(svg)) for title, about, svg in curves.curve_plots(comparison)],
        "curve_averaging": curves.curve_averaging(comparison),
    }


def _runs_shown(comparison: Comparison) -> list[dict[str, str]]:
    """The wall's columns: each run's method, and its name."""
    shown = []
    for method in comparison.everyone:
        name = comparison.names[method.label]
        several = len(method.runs) > 1
        shown += [{"method": name, "name": f"{name}, seed {run.seed}" if several else name} for run in method.runs]
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
            "seeds": list(method.seeds),
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


def _evaluation(comparison: Comparison) -> list[tuple[str, str]]:
    """The evaluation's settings and the resampling's, as rows."""
    settings = {key: value for key, value in comparison.settings.items() if key != "scorers"}
    settings["scorers"] = ", ".join(score.name for score in comparison.scores) or "none"
    settings["evaluation"] = comparison.base.runs[0].evaluation.name
    settings["bootstrap"] = (
        f"{comparison.bootstrap_samples} resamples, {percent(comparison.confidence)} intervals, seed {comparison.seed}"
    )
    return [(key.replace("_", " "), _plain(value)) for key, value in settings.items()]


def _provenance(comparison: Comparison, method: Method, run: Run) -> dict[str, str]:
    """One row of the table of runs. The folder's name only: where it lies is nobody's business but the user's."""
    manifest = run.manifest
    hardware = manifest.get("hardware") or {}
    cells = {
        "run": run.folder.resolve().name,
        "method": comparison.names[method.label],
        "settings": " ".join(settings(method.label)) or None,
        "seed": run.seed,
        "steps": manifest.get("steps"),
        "restarts": manifest.get("restarts"),
        "data": manifest.get("data_fingerprint"),
        "commit": (manifest.get("commit") or "")[:10] or None,
        "hardware": hardware and f"{hardware.get('accelerator')}, {hardware.get('cores')} cores",
        "notes": "; ".join(manifest.get("notes") or []) or None,
        "finished": (manifest.get("finished") or "")[:16].replace("T", " ") or None,
    }
    return {key: _plain(value) for key, value in cells.items()}


def _versions(comparison: Comparison) -> list[tuple[str, str]]:
    """Package to its version, or all of them where the runs differ."""
    found: dict[str, dict[str, None]] = {}
    for method in comparison.methods:
        for run in method.runs:
            for package, version in (run.manifest.get("versions") or {}).items():
                found.setdefault(package, {})[_plain(version)] = None
    return [(package, ", ".join(versions)) for package, versions in found.items()]


def _plain(value: Any) -> str:
    if value is None or value == {}:
        return "\N{EN DASH}"
    if isinstance(value, dict):
        return ", ".join(f"{key} {item}" for key, item in flatten(value).items())
    return value if isinstance(value, str) else json.dumps(value)
