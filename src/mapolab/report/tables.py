"""summary.md, and the tables in the terminal."""

from __future__ import annotations

from rich import box
from rich.table import Table

from mapolab.report.categories import category_table
from mapolab.report.costs import COST_HEADERS, COSTS, cost_cell
from mapolab.report.legends import MARKS, cost_legend, difference_legend, legend
from mapolab.report.mismatch import Mismatch
from mapolab.report.names import scorer_name
from mapolab.report.published import published_note, published_rows
from mapolab.report.runs import Method
from mapolab.report.summary import Comparison, ScoreSummary
from mapolab.report.words import decimals, findings, interval, leader, notes, number, opening, percent, visible_digits
from mapolab.texts import markdown, rich_text

ABREAST = 3
"""Scorers in one table of the terminal."""
DASH = "\N{EN DASH}"


def arrow(score: ScoreSummary) -> str:
    """Which way is better."""
    return "\N{UPWARDS ARROW}" if score.higher_is_better else "\N{DOWNWARDS ARROW}"


def summary_markdown(comparison: Comparison) -> str:
    """The findings in words, then tables of scores, win rates and cost."""
    told = [f"**{markdown(name)}** {markdown(sentence)}" for name, sentence in findings(comparison)]
    parts = [" ".join(filter(None, [markdown(opening(comparison) or ""), *told, markdown(leader(comparison) or "")]))]
    if comparison.scores:
        parts += [_markdown_table(*score_table(comparison)), *map(markdown, [legend(comparison), *notes(comparison)])]
        if published := published_rows([score.name for score in comparison.scores]):
            seeds = [""] if comparison.trained else []
            rows = [[f"{method} (published)", *seeds, *figures] for method, figures in published]
            told = markdown(f"Published, not measured here: {published_note(comparison.settings)}")
            parts += [told, _markdown_table(score_table(comparison)[0], rows)]
        title = f"### Differences from {markdown(comparison.base_name)}"
        parts += [title, _markdown_table(*difference_table(comparison)), markdown(difference_legend(comparison))]
        if by_category := category_table(comparison):
            parts += ["### By category of prompt", _markdown_table(*by_category)]
    for score in comparison.scores:
        parts += [f"### Win rates by {markdown(scorer_name(score.name))}", _win_table(comparison, score)]
    if comparison.scores:
        parts.append("Of the row's method against the column's, with its interval, ties as half.")
    if comparison.trained:
        parts += ["### Cost of training", _markdown_table(*cost_table(comparison)), markdown(cost_legend(comparison))]
    return "\n\n".join(parts) + "\n"


def score_table(comparison: Comparison, scores: list[ScoreSummary] | None = None) -> tuple[list[str], list[list[str]]]:
    """Header and rows: each method's mean, interval and win rate against the base for these scorers, None: for all."""
    scores = comparison.scores if scores is None else scores
    seeds = ["seeds"] if comparison.trained else []
    header = ["method", *seeds, *(f"{scorer_name(score.name)} {arrow(score)}" for score in scores)]
    return header, [_score_row(comparison, method, scores) for method in comparison.everyone]


def difference_table(comparison: Comparison) -> tuple[list[str], list[list[str]]]:
    """Header and rows: every method against the base by every scorer."""
    header = ["method", "scorer", "mean", "median", "wins", "ties", "losses", "d", "p", "found from", "prompts needed"]
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
    unknown = found.why or DASH
    return [
        f"{scorer_name(score.name)} {arrow(score)}",
        f"{number(found.mean.value, digits)} {interval(found.mean, digits)}",
        f"{number(found.median.value, digits)} {interval(found.median, digits)}",
        *(percent(share) for share in (found.wins, found.ties, found.losses)),
        unknown if found.effect_size is None else number(found.effect_size, 2),
        unknown if found.p_value is None else p_value(score.p_adjusted[label]),
        _found_from(score, found.detectable, digits),
        DASH if needed is None else f"{needed:,}{too_few}",
    ]


def _found_from(score: ScoreSummary, difference: float | None, digits: int) -> str:
    """The smallest difference that is found; `none` where it is larger than any two scores can differ."""
    if difference is None:
        return DASH
    least, most = score.about.get("minimum"), score.about.get("maximum")
    if least is not None and most is not None and difference > most - least:
        return "none"
    return number(difference, visible_digits(difference, digits))


def p_value(value: float | None) -> str:
    """0.032, <0.001; a dash where there is none."""
    if value is None:
        return DASH
    return "<0.001" if value < 0.001 else f"{value:.3f}" if value < 0.995 else f"{value:.2f}"


def mismatch_table(comparison: Comparison, points: list[Mismatch]) -> tuple[list[str], list[list[str]]]:
    """Header and rows: what each method gained over its base at each distance, as the plot shows it."""
    points = sorted(points, key=lambda point: point.distance)
    digits = decimals([gain for point in points for gain in point.gains.values()])
    rows = []
    for method in comparison.methods:
        name = comparison.names[method.label]
        gains = [point.gains.get(name) for point in points]
        told = [f"{number(gain.value, digits)} {interval(gain, digits)}" if gain else DASH for gain in gains]
        rows.append([name, *told])
    return ["method", *(f"distance {point.distance:.3f}" for point in points)], rows


def cost_table(comparison: Comparison) -> tuple[list[str], list[list[str]]]:
    """Header and rows of what each method's training cost, over its seeds: means, and the largest peak memory."""
    rows = [
        [comparison.names[method.label], *(cost_cell(method, field) for field in COSTS)]
        for method in comparison.trained
    ]
    return ["method", *(COST_HEADERS[field] for field in COSTS)], rows


def needed_table(comparison: Comparison, scores: list[ScoreSummary]) -> tuple[list[str], list[list[str]]]:
    """Header and rows: prompts to find each method's difference from the base, were it as large as the one seen, and
    the smallest one that is found with those there were."""
    header = ["method", *(scorer_name(score.name) for score in scores)]
    rows = [
        [comparison.names[method.label], *(_needed(score, method.label) for score in scores)]
        for method in comparison.methods
    ]
    return header, rows


def _needed(score: ScoreSummary, label: str) -> str:
    *_, found_from, needed = _difference_cells(score, label)
    needed = needed.split(" ")[0]
    return (
        needed if found_from == DASH else f"{needed}, from {found_from}" if found_from != "none" else f"{needed}, none"
    )


def rich_tables(comparison: Comparison) -> list[Table]:
    """Scores, prompts needed and cost for the terminal: several tables, so that each fits into 80 columns."""
    parts = [comparison.scores[i : i + ABREAST] for i in range(0, len(comparison.scores), ABREAST)]
    tables = [("Scores" if not i else "", score_table(comparison, part)) for i, part in enumerate(parts)]
    title = f"Prompts needed (there were {comparison.prompts}), and the smallest difference that is found"
    tables += [(title, needed_table(comparison, part)) for part in parts]
    if comparison.trained:
        tables.append(("Cost of training", cost_table(comparison)))
    return [_rich_table(title, *rows) for title, rows in tables]


def _rich_table(title: str, header: list[str], rows: list[list[str]]) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column(rich_text(header[0]), min_width=14)
    for column in header[1:]:
        # A long name over narrow figures stands in two lines.
        told = rich_text(column.replace(" ", "\n") if len(column) > 10 else column)
        table.add_column(told, justify="right", no_wrap=True)
    for row in rows:
        cells = (
            cell.replace(" [", "\n[").replace(", win", "\nwin").replace(", from", "\nfrom").replace(", none", "\nnone")
            for cell in row[1:]
        )
        table.add_row(rich_text(row[0]), *map(rich_text, cells))
    return table


def _score_row(comparison: Comparison, method: Method, scores: list[ScoreSummary]) -> list[str]:
    seeds = [str(len(method.runs)) if method.trained else DASH] if comparison.trained else []
    return [comparison.names[method.label], *seeds, *(_score_cell(comparison, score, method) for score in scores)]


def _score_cell(comparison: Comparison, score: ScoreSummary, method: Method) -> str:
    digits = decimals(list(score.mean.values()))
    mean = score.mean[method.label]
    cell = f"{number(mean.value, digits)} {interval(mean, digits)}"
    if method is comparison.base:
        return cell
    rate = score.win_rate[method.label][comparison.base.label]
    return f"{cell}, win rate {percent(rate.value)} {MARKS[score.verdict(method.label)]}".rstrip()


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
    return f"{percent(rate.value)} [{f'{percent(rate.low)}, {percent(rate.high)}' if rate.known else DASH}]"


def _markdown_table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] + ["---:"] * (len(header) - 1), *rows]
    return "\n".join("| " + " | ".join(map(markdown, line)) + " |" for line in lines)
