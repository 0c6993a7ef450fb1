"""How to read the tables, in words that stand below them."""

from __future__ import annotations

from mapolab.report.summary import Comparison
from mapolab.report.words import caveat, percent

MARKS = {"better": "\N{BLACK UP-POINTING TRIANGLE}", "worse": "\N{BLACK DOWN-POINTING TRIANGLE}", "same": ""}


def legend(comparison: Comparison) -> str:
    """How to read the table of scores."""
    marks = f"{MARKS['better']} better or {MARKS['worse']} worse than {comparison.base_name}, after Holm's correction"
    wins = f"wins: share of pictures better than those of {comparison.base_name}"
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
        f"of {prompts} prompts, about {percent(min(1.0, 3 / prompts))} could still score otherwise."
    )


def difference_legend(comparison: Comparison) -> str:
    """How to read the table of differences."""
    seeds = " and training seeds" if comparison.trained else ""
    too_unlike = ", or because the training seeds differ by more" if comparison.trained else ""
    return (
        "Paired by prompt and seed. d: the mean difference in standard deviations of the prompts' differences. p: that "
        f"there is no difference, by Student's t over prompts{seeds}, corrected by Holm over this whole table. Prompts "
        "needed: to find a difference as large as the one seen in four of five studies; where that is more than the "
        "prompts there were, 125 (of 96), no difference found may mean too few prompts. A dash: no number of prompts "
        f"would do, because there is no difference{too_unlike}."
    )
