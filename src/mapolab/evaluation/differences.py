"""Whether one method scores better than another: difference, wins, effect size, p-value, prompts it would take."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import optimize, stats

from mapolab.evaluation.statistics import Estimate, MethodScores, PairedBootstrap, Spread, outcomes

POWER = 0.8
SMALLEST = 1e-12
"""p-values below this are given as this."""


@dataclass(frozen=True)
class Difference:
    """`method` against `other` by one scorer, paired.

    mean, median: of the difference in score (median over prompts). win_rate: ties as half. wins, ties, losses: shares
    of pictures, which add up to 1. effect_size: mean difference in standard deviations of the prompts' differences
    (Cohen's d_z; 0.2 is called small, 0.5 medium, 0.8 large). p_value: of a mean difference of 0, two-sided, by
    Student's t on prompts and training seeds; p_value_wins: of a win rate of one half. prompts_needed: to find a
    difference as seen with 80% power, at these training seeds; None where no number of prompts would do, because the
    seeds differ too much or there is no difference at all.
    """

    mean: Estimate
    median: Estimate
    win_rate: Estimate
    wins: float
    ties: float
    losses: float
    effect_size: float
    p_value: float
    p_value_wins: float
    prompts: int
    prompts_needed: int | None


def compare(
    bootstrap: PairedBootstrap, method: MethodScores, other: MethodScores, higher_is_better: bool
) -> Difference:
    """All there is to say of one pair of methods."""
    mean = bootstrap.difference(method, other)
    signs = outcomes(method, other, higher_is_better)
    by_prompt = bootstrap.by_prompt(method.values.mean(0) - other.values.mean(0))
    spread = float(by_prompt.std(ddof=1)) if len(by_prompt) > 1 else 0.0
    variation = bootstrap.spread(method, other)
    win_rate = bootstrap.win_rate(method, other, higher_is_better)
    win_variation = bootstrap.win_spread(method, other, higher_is_better)
    return Difference(
        mean=mean,
        median=bootstrap.median_difference(method, other),
        win_rate=win_rate,
        wins=float((signs > 0).mean()),
        ties=float((signs == 0).mean()),
        losses=float((signs < 0).mean()),
        effect_size=by_prompt.mean() / spread if spread else math.copysign(math.inf, mean.value) if mean.value else 0.0,
        p_value=_p_value(mean.value, variation),
        p_value_wins=_p_value(win_rate.value - 0.5, win_variation),
        prompts=len(by_prompt),
        prompts_needed=prompts_needed(mean.value, spread, variation.of_seeds, 1 - bootstrap.confidence),
    )


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's (1979) adjusted p-values: all below a threshold together err less often than it says."""
    order = np.argsort(p_values, kind="stable")
    factors = len(p_values) - np.arange(len(p_values))
    adjusted = np.empty(len(p_values))
    adjusted[order] = np.minimum(np.maximum.accumulate(np.asarray(p_values)[order] * factors), 1)
    return adjusted.tolist()


def prompts_needed(difference: float, spread: float, seed_variance: float, level: float) -> int | None:
    """Prompts for a two-sided test at `level` to find `difference` in `POWER` of all cases, by the normal law.

    spread: standard deviation of the prompts' differences. seed_variance: what the training seeds add to the variance
    of the mean, which no number of prompts lessens.
    """
    if difference == 0:
        return None
    standard_error = abs(difference) / (stats.norm.ppf(1 - level / 2) + stats.norm.ppf(POWER))
    left = standard_error**2 - seed_variance
    return max(2, math.ceil(spread**2 / left)) if left > 0 else None


def _p_value(difference: float, spread: Spread) -> float:
    """The level at which the interval of the difference would end at 0."""
    size = abs(difference)
    if spread.variance == 0 or size == 0:
        return 0.0 if size else 1.0
    if spread.reach(1 - SMALLEST / 2) <= size:
        return SMALLEST
    return float(optimize.brentq(lambda level: spread.reach(1 - level / 2) - size, SMALLEST, 1.0, xtol=SMALLEST))
