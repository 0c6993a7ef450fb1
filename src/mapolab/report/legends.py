"""How to read the tables, in words that stand below them."""

from __future__ import annotations

from mapolab.evaluation.intervals import NO_SPREAD
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
    wins = f"win rate: the share of pictures that score better than those of {comparison.base_name}, ties as half"
    return f"{caveat(comparison)} Arrows say which way is better; {marks}; {wins}.{_dash(comparison)}"


def _dash(comparison: Comparison) -> str:
    """What a dash in place of an interval means, where one says that every picture scored the same."""
    reasons = {mean.why for score in comparison.scores for mean in score.mean.values()}
    return " A dash in place of an interval: no spread, every picture scored the same." if NO_SPREAD in reasons else ""


def wins_legend(comparison: Comparison) -> str:
    """How to read the matrices of win rates."""
    units = " over clusters of prompts" if comparison.clustered else ""
    return (
        "How often the row's picture scores better than the column's, same prompt and same noise, ties as half. Bold "
        "where it differs from 50% after Holm's correction over all pairs and scorers; the small figures are its "
        f"interval{units}, in per cent. Every pair with its differences is in pairs.csv, beside this page's tables."
    )


def difference_legend(comparison: Comparison) -> str:
    """How to read the table of differences."""
    too_unlike = " because the training seeds differ by more, or" if comparison.trained else ""
    seeds = " and training seeds" if comparison.trained else ""
    units = "clusters" if comparison.clustered else "prompts"
    return (
        "Paired by prompt and seed. Wins, ties and losses: shares of pictures; the win rate is the wins and half the "
        f"ties. d: the mean difference in standard deviations of the {units}' differences. p: that there is no "
        "difference, the level at which the mean's interval ends at 0, corrected by Holm over this whole table. Found "
        f"from: the smallest difference that so many {units}{seeds} find in four of five studies, none "
        "where no two scores are that far apart. Prompts needed: to find a difference as large as the one seen; where "
        "that is more than the prompts there were, 125 (of 96), no difference found may mean too few prompts; a dash "
        f"where no number would do,{too_unlike} there is no difference. No spread: all {units} differ by the same, so "
        f"that chance cannot be told from an effect; too few: fewer than {MINIMUM} {units}."
    )


def cost_legend(comparison: Comparison) -> str:
    """How to read the table of costs."""
    seen = [run.manifest.get("hardware") or {} for method in comparison.trained for run in method.runs]
    names = list(dict.fromkeys(", ".join(f"{key} {value}" for key, value in one.items()) or "unknown" for one in seen))
    unlike = " The runs were trained on different hardware, so that their time and memory do not compare: "
    return (
        "Means over training seeds, and the largest peak memory. A sample is a pair of pictures, or a picture where a "
        "method draws its own. Operations are counted as mapolab plan counts them, not measured."
        f"{unlike + '; '.join(names) + '.' if len(names) > 1 else ''}"
    )
