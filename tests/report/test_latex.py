"""summary.tex: what it marks agrees with the page, and nothing in it is a command that no one gave."""

import re

from mapolab.report.collect import collect
from mapolab.report.latex import summary_latex
from mapolab.report.summary import compare_methods
from mapolab.report.words import decimals
from mapolab.texts import latex

PATTERN = "outputs/emoji_style/*"


def test_cells_agree_with_the_comparison(three_methods) -> None:
    comparison = compare_methods(*collect(PATTERN), 0.95)
    rows = [line.removesuffix(r" \\").split(" & ") for line in summary_latex(comparison).splitlines() if " & $" in line]
    for method, row in zip(comparison.everyone, rows, strict=True):
        for score, cell in zip(comparison.scores, row[1:], strict=True):
            mean, digits = score.mean[method.label], decimals(list(score.mean.values()))
            printed = {label: f"{one.value:.{digits}f}" for label, one in score.mean.items()}
            best = (max if score.higher_is_better else min)(printed.values(), key=float)
            assert (r"\mathbf" in cell) == (printed[method.label] == best)  # two that print alike are both bold
            assert ("^{*}" in cell) == (score.verdict(method.label) in ("better", "worse"))
            low, high = re.search(r"\$\[(.+), (.+)\]\$", cell).groups()
            assert (float(low), float(high)) == (float(f"{mean.low:.{digits}f}"), float(f"{mean.high:.{digits}f}"))
            assert (r"\%)" in cell) == (method is not comparison.base)
    assert "the share of pictures that score better, ties as half" in summary_latex(comparison)
    assert r"\pm" not in summary_latex(comparison)  # an interval is not the same to both sides


def test_an_interval_that_is_not_known_is_a_dash(workshop) -> None:
    workshop.prompts = workshop.prompts[:3]
    workshop.settings["prompt_count"] = 3
    workshop.base()
    workshop.run("mapo")
    row = next(line for line in summary_latex(compare_methods(*collect(PATTERN), 0.95)).splitlines() if "MaPO" in line)
    assert re.search(r"\$ -- \(", row) and "[" not in row


def test_names_are_one_line_of_letters() -> None:
    assert latex("a\nb\r\nc") == "a b c"
    assert latex("[x]*--y") == "{[}x{]}{*}-{-}y"  # neither an argument of the line break before, nor a dash
    assert latex(r"50%_a\b") == r"50\%\_a\textbackslash{}b"
    assert latex("a<b>c|d~e^f") == (r"a\textless{}b\textgreater{}c\textbar{}d\textasciitilde{}e\textasciicircum{}f")
