"""report/index.html: one file with everything inside, which opens from the file system without a network."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from mapolab.report import curves, plots, tables
from mapolab.report.categories import category_table
from mapolab.report.legends import MARKS, cost_legend, difference_legend, legend, wins_legend
from mapolab.report.mismatch import Mismatch
from mapolab.report.names import scorer_name
from mapolab.report.provenance import evaluation_rows, provenance, versions
from mapolab.report.published import published_note, published_rows
from mapolab.report.runs import Method
from mapolab.report.summary import Comparison, ScoreSummary
from mapolab.report.svg import Plot, css_colour, key_mark
from mapolab.report.wall import FIRST_ROWS, Wall, build_wall, is_pixelated, shown_runs
from mapolab.report.words import decimals, findings, interval, joined, leader, notes, number, opening, percent, subtitle
from mapolab.texts import visible

MANY_METHODS = 5
"""From more than so many methods on, the findings are a list, and a win-rate matrix takes the page's whole width."""
COMPACT_METHODS = 8
"""With more methods, the cells of a win-rate matrix are small."""
PAGE_BUDGET = 14_900_000
"""Bytes of the whole page, which is to stay below 15 MB."""
LARGE_COLUMNS = 7
"""Up to so many runs abreast, the wall's pictures are large."""


# Nothing is fetched or sent, and no script or style sheet runs but the two that are ours; plots and dots have their
# colours as attributes.
POLICY = (
    "default-src 'none'; script-src 'sha256-{script}'; style-src-elem 'sha256-{css}'; style-src-attr 'unsafe-inline'; "
    "img-src data:; base-uri 'none'; form-action 'none'"
)


@dataclass(frozen=True)
class ShownMethod:
    """A row of the table of scores, a colour and mark of the plots, and a heading of the wall.

    settings: what stands small under the name. columns: the training seeds that the wall shows. mark: its line and
    marker as an <svg>, for the key of a section.
    """

    name: str
    settings: str
    colour: str
    mark: Callable[[str], Markup]
    seeds: tuple[int | None, ...]
    columns: tuple[int | None, ...]


@dataclass(frozen=True)
class ScoreCell:
    """A method's mean, as text. verdict: the class of the page's style."""

    mean: str
    interval: str
    win_rate: str
    verdict: str
    mark: str


@dataclass(frozen=True)
class WinCell:
    """strength: -1 (always loses) .. 1 (always wins). is_clear: stands out after Holm's correction."""

    rate: str
    interval: str
    strength: float
    is_clear: bool


@dataclass(frozen=True)
class ShownScore:
    """cells: of each method. wins: the matrix of win rates, None against itself."""

    name: str
    key: str
    arrow: str
    better: str
    plot: Plot
    cells: list[ScoreCell]
    wins: list[list[WinCell | None]]


@dataclass(frozen=True)
class WallColumn:
    """A run on the wall."""

    method: str
    name: str


class StrictEnvironment(Environment):
    """Takes no attribute of a dict, list or text, whose own methods (`clear`, `items`, `title`) would stand in for what
    is meant: all that a template speaks of has a type."""

    def getattr(self, obj: Any, attribute: str) -> Any:
        if isinstance(obj, dict | list | tuple | str):
            raise TypeError(f"a template asks for .{attribute} of a {type(obj).__name__}; give it a dataclass")
        return super().getattr(obj, attribute)


def render_page(comparison: Comparison, mismatches: list[Mismatch]) -> str:
    """The page as HTML text, of at most `PAGE_BUDGET` bytes. mismatches: for their plot, may be none.

    Raises UserError for a missing or broken picture.
    """
    environment = StrictEnvironment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        finalize=lambda value: visible(value) if type(value) is str else value,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    css = Markup(Path(__file__).with_name("page.css").read_text(encoding="utf-8"))
    script = Markup(Path(__file__).with_name("wall.js").read_text(encoding="utf-8"))
    policy = POLICY.format(css=_digest(css), script=_digest(script))
    columns = _columns(comparison)
    context = _context(comparison) | _statistics(comparison) | _plots(comparison, mismatches)
    context |= {
        "css": css,
        "script": script,
        "policy": policy,
        "columns": columns,
        "as_json": [asdict(column) for column in columns],
    }
    page = environment.get_template("page.html.j2")
    row = environment.get_template("row.html.j2")

    def render(wall: Wall) -> str:
        return page.render(wall=wall, **context)

    bare = render(Wall([], 10**9, is_pixelated(comparison)))
    room = PAGE_BUDGET - len(bare.encode())
    return render(build_wall(comparison, room, lambda one: Markup(row.render(row=one, columns=columns))))


def _digest(content: str) -> str:
    """Of what stands between the tags, as a policy names it."""
    return base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()


def _context(comparison: Comparison) -> dict[str, Any]:
    shown = [run for method in comparison.everyone for run in shown_runs(method, comparison)]
    pictures = len(comparison.base.runs[0].pictures)
    runs = [provenance(comparison, method, run) for method in comparison.everyone for run in method.runs]
    return {
        "name": _title(comparison),
        "subtitle": subtitle(comparison, pictures, MANY_METHODS),
        "opening": opening(comparison),
        "base_name": comparison.base_name,
        "findings": findings(comparison),
        "leader": leader(comparison),
        "many": len(comparison.methods) > MANY_METHODS,
        "compact": len(comparison.methods) > COMPACT_METHODS,
        "legend": legend(comparison),
        "methods": [_method(comparison, method, index) for index, method in enumerate(comparison.everyone)],
        "scores": [_score(comparison, score) for score in comparison.scores],
        "first_rows": FIRST_ROWS,
        "cost": tables.cost_table(comparison) if comparison.trained else None,
        "cost_legend": cost_legend(comparison),
        "one_seed": len(shown) < sum(len(method.runs) for method in comparison.everyone),
        "wall_class": _wall_class(len(shown), is_pixelated(comparison)),
        "evaluation": evaluation_rows(comparison),
        "run_header": list(runs[0]),
        "run_rows": [list(run.values()) for run in runs],
        "versions": versions(comparison),
    }


def _title(comparison: Comparison) -> str:
    """The experiments' names."""
    named = [run.manifest.get("name") for method in comparison.methods for run in method.runs]
    return joined([name.replace("_", " ") for name in dict.fromkeys(named) if name] or ["comparison"])


def _statistics(comparison: Comparison) -> dict[str, Any]:
    names = [score.name for score in comparison.scores]
    return {
        "differences": tables.difference_table(comparison) if comparison.scores else None,
        "differences_legend": difference_legend(comparison),
        "wins_legend": wins_legend(comparison),
        "categories": category_table(comparison) if comparison.scores else None,
        "published": [[method, *figures] for method, figures in published_rows(names)],
        "published_source": published_note(comparison.settings),
        "score_names": [scorer_name(name) for name in names],
        "notes": notes(comparison),
    }


def _plots(comparison: Comparison, mismatches: list[Mismatch]) -> dict[str, Any]:
    mismatch = plots.mismatch_plot(comparison, mismatches)
    return {
        "spreads": plots.distribution_plots(comparison),
        "cost_plots": plots.cost_plots(comparison),
        "mismatch": mismatch,
        "mismatch_numbers": tables.mismatch_table(comparison, mismatches) if mismatch else None,
        "seeds_beside": len(comparison.methods) <= curves.SEEDS_BESIDE,
        "curves": curves.curve_plots(comparison),
        "curve_averaging": curves.curve_averaging(comparison),
    }


def _columns(comparison: Comparison) -> list[WallColumn]:
    """The wall's columns: each run's method, and its name."""
    return [
        WallColumn(method.name, f"{method.name}, seed {run.seed}" if len(method.runs) > 1 else method.name)
        for method in comparison.everyone
        for run in shown_runs(method, comparison)
    ]


def _wall_class(columns: int, pixelated: bool) -> str:
    size = "large" if columns <= LARGE_COLUMNS else "small"
    return f"wall {size} pixelated" if pixelated else f"wall {size}"


def _method(comparison: Comparison, method: Method, index: int) -> ShownMethod:
    return ShownMethod(
        method.name,
        _aside(method),
        css_colour(index),
        partial(key_mark, index),
        method.seeds,
        tuple(run.seed for run in shown_runs(method, comparison)),
    )


def _aside(method: Method) -> str:
    """What stands small under a method's name: `beta=8, 3 seeds`."""
    seeds = [f"{len(method.seeds)} seeds"] if len(method.seeds) > 1 else []
    return ", ".join([*method.shared, *seeds])


def _score(comparison: Comparison, score: ScoreSummary) -> ShownScore:
    labels = [method.label for method in comparison.everyone]
    return ShownScore(
        name=scorer_name(score.name),
        key=score.name,
        arrow=tables.arrow(score),
        better="higher is better" if score.higher_is_better else "lower is better",
        plot=plots.score_plot(comparison, score),
        cells=[_cell(comparison, score, label) for label in labels],
        wins=[[_win(score, label, other) for other in labels] for label in labels],
    )


def _cell(comparison: Comparison, score: ScoreSummary, label: str) -> ScoreCell:
    base = comparison.base.label
    digits = decimals(list(score.mean.values()))
    verdict = score.verdict(label)
    return ScoreCell(
        mean=number(score.mean[label].value, digits),
        interval=interval(score.mean[label], digits),
        win_rate="" if label == base else percent(score.win_rate[label][base].value),
        verdict=verdict,
        mark=MARKS[verdict],
    )


def _win(score: ScoreSummary, label: str, other: str) -> WinCell | None:
    if label == other:
        return None
    rate = score.win_rate[label][other]
    return WinCell(
        rate=percent(rate.value),
        interval=f"{100 * rate.low:.0f}\N{EN DASH}{100 * rate.high:.0f}" if rate.known else "\N{EN DASH}",
        strength=round(2 * rate.value - 1, 3),
        is_clear=score.win_is_clear(label, other),
    )
