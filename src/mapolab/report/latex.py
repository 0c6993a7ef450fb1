"""summary.tex: the table of scores for a paper, with booktabs."""

from __future__ import annotations

from mapolab.report.names import scorer_name
from mapolab.report.summary import Comparison, ScoreSummary
from mapolab.report.words import decimals, percent

SPECIAL = {letter: f"\\{letter}" for letter in "&%$#_{}"} | {"\\": r"\textbackslash{}", "~": r"\~{}", "^": r"\^{}"}


def summary_latex(comparison: Comparison) -> str:
    """Means with half-widths of their intervals, the best in bold, win rates against the base below.

    A star marks a difference from the base that stands after Holm's correction.
    """
    scores = comparison.scores
    header = " & ".join(["Method", *(escape(f"{scorer_name(score.name)}") + _arrow(score) for score in scores)])
    rows = [_row(comparison, label) for label in [method.label for method in comparison.everyone]]
    body = "\n".join([r"\toprule", header + r" \\", r"\midrule", *rows, r"\bottomrule"])
    confidence = percent(comparison.confidence).replace("%", r"\%")
    star = f"Star: differs from {escape(comparison.base_name)} after Holm's correction"
    note = f"% Half-widths of {confidence} intervals. {star}. Bold: best."
    columns = "l" + "c" * len(scores)
    table = f"\\begin{{tabular}}{{{columns}}}\n{body}\n\\end{{tabular}}\n"
    return f"% Needs \\usepackage{{booktabs}}.\n{note}\n{table}"


def escape(text: str) -> str:
    """Text in which nothing is a command."""
    return "".join(SPECIAL.get(letter, letter) for letter in text)


def _arrow(score: ScoreSummary) -> str:
    return r" $\uparrow$" if score.higher_is_better else r" $\downarrow$"


def _row(comparison: Comparison, label: str) -> str:
    cells = [_cell(score, label, comparison.base.label) for score in comparison.scores]
    return " & ".join([escape(comparison.names[label]), *cells]) + r" \\"


def _cell(score: ScoreSummary, label: str, base: str) -> str:
    digits = decimals(list(score.mean.values()))
    mean = score.mean[label]
    values = {other: estimate.value for other, estimate in score.mean.items()}
    best = (max if score.higher_is_better else min)(values.values())
    number = f"{mean.value:.{digits}f}"
    number = rf"\mathbf{{{number}}}" if values[label] == best else number
    star = "^{*}" if score.verdict(label) != "same" else ""
    wins = "" if label == base else f" ({percent(score.win_rate[label][base].value)})"
    wins = wins.replace("%", r"\%").replace(">", "$>$").replace("<", "$<$")
    return f"${number}{star} \\pm {(mean.high - mean.low) / 2:.{digits}f}${wins}"
