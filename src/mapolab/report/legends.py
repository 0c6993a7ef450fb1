"""How to read the tables, in words that stand below them."""

from __future__ import annotations

from mapolab.evaluation.statistics import MINIMUM
from mapolab.report.summary import Comparison
from mapolab.report.words import caveat

MARKS = {
    "better": "\N{BLACK UP-POINTING TRIANGLE}",
    "worse": "\N{BLACK DOWN-POINTING TRIANGLE}",
    "same": "",
    "unknown": "",
}


def legend(comparison: Comparison) -> str:
    """How to read the table of scores."""
    marks = f"{MARKS['better']} better or {MARKS['worse']} worse than {comparison.base_name}, after Holm's correction"
    wins = f"wins: share of pictures better than those of {comparison.base_name}"
    return f"{caveat(comparison)} Arrows say which way is better; {marks}; {wins}."


def difference_legend(comparison: Comparison) -> str:
    """How to read the table of differences."""
    too_unlike = " because the training seeds differ by more, or" if comparison.trained else ""
    units = "clusters" if comparison.clustered else "prompts"
    return (
        f"Paired by prompt and seed. d: the mean difference in standard deviations of the {units}' differences. p: that "
        "there is no difference, the level at which the mean's interval ends at 0, corrected by Holm over this whole "
        "table. Found from: the smallest difference that so many prompts and training seeds find in four of five "
        "studies. Prompts needed: to find a difference as large as the one seen; where that is more than the prompts "
        "there were, 125 (of 96), no difference found may mean too few prompts. A dash: no number of prompts would do,"
        f"{too_unlike} there is no difference; or nothing can be told: no spread, or fewer than {MINIMUM} {units}."
    )
