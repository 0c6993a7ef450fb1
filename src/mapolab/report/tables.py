"""summary.csv for programs, summary.md for people, and the table in the terminal."""

from __future__ import annotations

import csv
import io
import math

from rich import box
from rich.table import Table

from mapolab.evaluation.statistics import Estimate
from mapolab.report.costs import COST_HEADERS, COSTS, cost, cost_cell
from mapolab.report.names import scorer_name
from mapolab.report.published import SOURCE, published_rows
from mapolab.report.runs import Method
from mapolab.report.summary import Comparison, ScoreSummary
from mapolab.report.words import caveat, decimals, findings, interval, leader, notes, number, opening, percent

ABREAST = 3
"""Scorers in one table of the terminal."""
MARKS = {"better": "\N{BLACK UP-POINTING TRIANGLE}", "worse": "\N{BLACK DOWN-POINTING TRIANGLE}", "same": ""}


def arrow(score: ScoreSummary) -> str:
    """Which way is better."""
    return "\N{UPWARDS ARROW}" if score.higher_is_better else "\N{DOWNWARDS ARROW}"


def summary_csv(comparison: Comparison) -> str:
    """One row a method, the base first; `<scorer>/...` columns, each estimate with its _low and _high."""
    rows = [_csv_row(comparison, method) for method in comparison.everyone]
    columns = list(dict.fromkeys(column for row in rows for column in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _csv_row(comparison: Comparison, method: Method) -> dict[str, object]:
    label, base = method.label, comparison.base.label
    row: dict[str, object] = {
        "method": label,
        "seeds": " ".join(str(seed) for seed in method.seeds if seed is not None),
    }
    for score in comparison.scores:
        row |= _csv_estimate(f"{score.name}/mean", score.mean[label])
        row[f"{score.name}/median"] = f"{score.median[label]:.6g}"
        if label != base:
            row |= _csv_against_base(score, label)
        for other, rate in score.win_rate[label].items():
            row |= _csv_estimate(f"{score.name}/win_rate_against_{other}", rate)
    for field in COSTS:
        value = cost(method, field)
        row[field] = "" if value is None else f"{value:.6g}"
    return row


def _csv_against_base(score: ScoreSummary, label: str) -> dict[str, object]:
    found = score.against[label][score.base]
    row: dict[str, object] = _csv_estimate(f"{score.name}/difference_from_base", found.mean)
    row |= _csv_estimate(f"{score.name}/median_difference_from_base", found.median)
    for name in ("wins", "ties", "losses", "effect_size", "p_value"):
        row[f"{score.name}/{name}_against_base"] = f"{getattr(found, name):.6g}"
    row[f"{score.name}/p_adjusted_against_base"] = f"{score.p_adjusted[label]:.6g}"
    row[f"{score.name}/prompts_needed"] = found.prompts_needed if found.prompts_needed is not None else ""
    row[f"{score.name}/verdict_against_base"] = score.verdict(label)
    return row


def _csv_estimate(column: str, estimate: Estimate) -> dict[str, str]:
    values = {"": estimate.value, "_low": estimate.low, "_high": estimate.high}
    return {column + ending: f"{value:.6g}" for ending, value in values.items()}


def summary_markdown(comparison: Comparison) -> str:
    """The findings in words, then tables of scores, win rates and cost."""
    told = [f"**{name}** {sentence}" for name, sentence in findings(comparison)]
    parts = [" ".join(filter(None, [opening(comparison), *told, leader(comparison)]))]
    if comparison.scores:
        parts += [_markdown_table(*score_table(comparison)), legend(comparison), *notes(comparison)]
        if published := published_rows([score.name for score in comparison.scores]):
            rows = [[f"{method} (published)", "", *figures] for method, figures in published]
            parts += [f"Published, not measured here ({SOURCE}):", _markdown_table(score_table(comparison)[0], rows)]
        parts.append("### Differences from the base\n\n" + _markdown_table(*difference_table(comparison)))
        parts.append(DIFFERENCES_LEGEND)
    for score in comparison.scores:
        parts.append(f"### Win rates by {scorer_name(score.name)}\n\n" + _win_table(comparison, score))
    parts.append("### Cost of training\n\n" + _markdown_table(*cost_table(comparison)))
    return "\n\n".join(parts) + "\n"


def legend(comparison: Comparison) -> str:
    """How to read the table of scores."""
    marks = f"{MARKS['better']} better or {MARKS['worse']} worse than the base, after Holm's correction"
    wins = "wins: share of pictures better than the base's"
    return f"{caveat(comparison)} Arrows say which way is better; {marks}; {wins}.{_widthless(comparison)}"


def _widthless(comparison: Comparison) -> str:
    """A word on intervals that a resample cannot give any width, where there is one."""
    means = [mean for score in comparison.scores for mean in score.mean.values()]
    if all(mean.low < mean.high for mean in means):
        return ""
    prompts = len({row["prompt"] for row in comparison.base.runs[0].pictures})
    # The rule of three: none seen in n leaves up to about 3 / n at 95%.
    return (
        " An interval without width means that every picture scored the same; "
        f"of {prompts} prompts, about {percent(3 / prompts)} could still score otherwise."
    )


def score_table(comparison: Comparison, scores: list[ScoreSummary] | None = None) -> tuple[list[str], list[list[str]]]:
    """Header and rows: each method's mean, interval and win rate against the base for these scorers, None: for all."""
    scores = comparison.scores if scores is None else scores
    header = ["method", "seeds", *(f"{scorer_name(score.name)} {arrow(score)}" for score in scores)]
    return header, [_score_row(comparison, method, scores) for method in comparison.everyone]


DIFFERENCES_LEGEND = (
    "Paired by prompt and seed. d: the mean difference in standard deviations of the prompts' differences. p: that "
    "there is no difference, by Student's t over prompts and training seeds, corrected by Holm over this whole table. "
    "Prompts needed: to find a difference as large as the one seen in four of five studies; where that is more than "
    "the prompts there were, 125 (of 96), no difference found may mean too few prompts. A dash: no number of prompts "
    "would do, because there is no difference, or because the training seeds differ by more."
)


def difference_table(comparison: Comparison) -> tuple[list[str], list[list[str]]]:
    """Header and rows: every method against the base by every scorer."""
    header = ["method", "scorer", "mean", "median", "wins", "ties", "losses", "d", "p", "prompts needed"]
    rows = [
        [comparison.names[method.label], *_difference_cells(score, method.label)]
        for method in comparison.methods
        for score in comparison.scores
    ]
    return header, rows


def _difference_cells(score: ScoreSummary, label: str) -> list[str]:
    found, digits = score.against[label][score.base], decimals(list(score.difference.values()))
    needed = found.prompts_needed
    too_few = f" (of {found.prompts})" if needed is not None and needed > found.prompts else ""
    effect = "\N{INFINITY}" if math.isinf(found.effect_size) else number(found.effect_size, 2)
    return [
        f"{scorer_name(score.name)} {arrow(score)}",
        f"{number(found.mean.value, digits)} {interval(found.mean, digits)}",
        f"{number(found.median.value, digits)} {interval(found.median, digits)}",
        *(percent(share) for share in (found.wins, found.ties, found.losses)),
        effect,
        p_value(score.p_adjusted[label]),
        f"{needed:,}{too_few}" if needed is not None else "\N{EN DASH}",
    ]


def p_value(value: float) -> str:
    """0.032, <0.001."""
    return "<0.001" if value < 0.001 else f"{value:.3f}" if value < 0.995 else f"{value:.2f}"


def cost_table(comparison: Comparison) -> tuple[list[str], list[list[str]]]:
    """Header and rows of what training each method cost, over its seeds: means, and the largest peak memory."""
    rows = [
        [comparison.names[method.label], *(cost_cell(method, field) for field in COSTS)]
        for method in comparison.methods
    ]
    return ["method", *(COST_HEADERS[field] for field in COSTS)], rows


def rich_tables(comparison: Comparison) -> list[Table]:
    """Scores and cost for the terminal: several tables, so that each fits into 80 columns."""
    parts = [comparison.scores[i : i + ABREAST] for i in range(0, len(comparison.scores), ABREAST)]
    titles = [("Scores" if not i else "", score_table(comparison, part)) for i, part in enumerate(parts)]
    return [_rich_table(title, *rows) for title, rows in [*titles, ("Cost of training", cost_table(comparison))]]


def _rich_table(title: str, header: list[str], rows: list[list[str]]) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column(header[0], min_width=14)
    for column in header[1:]:
        table.add_column(column, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(*(cell.replace(" [", "\n[").replace(", wins", "\nwins") for cell in row))
    return table


def _score_row(comparison: Comparison, method: Method, scores: list[ScoreSummary]) -> list[str]:
    seeds = "\N{EN DASH}" if method is comparison.base else str(len(method.runs))
    cells = [_score_cell(comparison, score, method) for score in scores]
    return [comparison.names[method.label], seeds, *cells]


def _score_cell(comparison: Comparison, score: ScoreSummary, method: Method) -> str:
    digits = decimals(list(score.mean.values()))
    mean = score.mean[method.label]
    cell = f"{number(mean.value, digits)} {interval(mean, digits)}"
    if method is comparison.base:
        return cell
    rate = score.win_rate[method.label][comparison.base.label]
    return f"{cell}, wins {percent(rate.value)} {MARKS[score.verdict(method.label)]}".rstrip()


def _win_table(comparison: Comparison, score: ScoreSummary) -> str:
    labels = [method.label for method in comparison.everyone]
    header = ["wins against", *(comparison.names[label] for label in labels)]
    rows = [[comparison.names[label], *(win_cell(score, label, other) for other in labels)] for label in labels]
    return _markdown_table(header, rows)


def win_cell(score: ScoreSummary, label: str, other: str) -> str:
    """`82% [74%, 89%]`; empty against itself."""
    if label == other:
        return ""
    rate = score.win_rate[label][other]
    return f"{percent(rate.value)} [{percent(rate.low)}, {percent(rate.high)}]"


def _markdown_table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] + ["---:"] * (len(header) - 1), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
