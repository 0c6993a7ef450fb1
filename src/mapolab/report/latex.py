"""summary.tex: the table of scores for a paper, with booktabs."""

from __future__ import annotations

from mapolab.report.names import scorer_name
from mapolab.report.summary import Comparison, ScoreSummary
from mapolab.report.words import caveat, decimals, percent
from mapolab.texts import latex


def summary_latex(comparison: Comparison) -> str:
    """Means with their intervals, the best in bold, and win rates against the base.

    A star marks a difference from the base that stands after Holm's correction.
    """
    scores = comparison.scores
    header = " & ".join(["Method", *(latex(scorer_name(score.name)) + _arrow(score) for score in scores)])
    rows = [_row(comparison, label) for label in [method.label for method in comparison.everyone]]
    body = "\n".join([r"\toprule", header + r" \\", r"\midrule", *rows, r"\bottomrule"])
    base = latex(comparison.base_name)
    notes = [
        latex(caveat(comparison)),
        f"In parentheses: the win rate against {base}, the share of pictures that score better, ties as half.",
        f"Star: differs from {base} after Holm's correction. Bold: the best mean, and what is printed like it.",
    ]
    needs = [r"Needs \usepackage{booktabs}."]
    columns = "l" + "c" * len(scores)
    table = f"\\begin{{tabular}}{{{columns}}}\n{body}\n\\end{{tabular}}\n"
    if any(ord(letter) > LAST_LATIN for letter in table):
        needs.append("Some names hold letters that pdfLaTeX does not know: use LuaLaTeX or XeLaTeX.")
    return "".join(f"% {line}\n" for line in [*needs, *notes]) + table


LAST_LATIN = 0x17F
"""The last letter of those that LaTeX reads without a package."""


def _arrow(score: ScoreSummary) -> str:
    return r" $\uparrow$" if score.higher_is_better else r" $\downarrow$"


def _row(comparison: Comparison, label: str) -> str:
    cells = [_cell(score, label, comparison.base.label) for score in comparison.scores]
    return " & ".join([latex(comparison.names[label]), *cells]) + r" \\"


def _cell(score: ScoreSummary, label: str, base: str) -> str:
    digits = decimals(list(score.mean.values()))
    mean, printed = score.mean[label], {other: _figure(one.value, digits) for other, one in score.mean.items()}
    best = (max if score.higher_is_better else min)(printed.values(), key=float)
    number = rf"\mathbf{{{printed[label]}}}" if float(printed[label]) == float(best) else printed[label]
    star = "^{*}" if score.verdict(label) in ("better", "worse") else ""
    interval = f"$[{_figure(mean.low, digits)}, {_figure(mean.high, digits)}]$" if mean.known else "--"
    wins = "" if label == base else f" ({latex(percent(score.win_rate[label][base].value))})"
    return f"${number}{star}$ {interval}{wins}"


def _figure(value: float, digits: int) -> str:
    """For math mode; never a negative zero."""
    text = f"{value:.{digits}f}"
    return text.lstrip("-") if float(text) == 0 else text
