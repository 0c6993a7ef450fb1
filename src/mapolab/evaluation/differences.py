"""Whether one method scores better than another: difference, wins, effect size, p-value, and what could be found."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from scipy import optimize, special

from mapolab.evaluation.intervals import Estimate, Part, Spread, shares, squared_t, widening
from mapolab.evaluation.statistics import MethodScores, PairedStatistics, outcomes

POWER = 0.8
MOST_CLUSTERS = 10_000_000
"""Where more are needed, none would do."""


@dataclass(frozen=True)
class Difference:
    """`method` against `other` by one scorer, paired.

    mean, median: of the difference in score (median over prompts). win_rate: ties as half. wins, ties, losses: shares
    of pictures, which add up to 1. effect_size: mean difference in standard deviations of the clusters' differences
    (Cohen's d_z; 0.2 is called small, 0.5 medium, 0.8 large). p_value: of a mean difference of 0, two-sided;
    p_value_wins: of a win rate of one half. None where nothing can be told; why: the reason, for the mean and what
    comes from it. level: at which `detectable` and `clusters_needed` would find a difference.
    """

    mean: Estimate
    median: Estimate
    win_rate: Estimate
    wins: float
    ties: float
    losses: float
    effect_size: float | None
    p_value: float | None
    p_value_wins: float | None
    prompts: int
    clusters: int
    spread: Spread
    level: float

    @property
    def why(self) -> str | None:
        return self.mean.why

    @cached_property
    def detectable(self) -> float | None:
        """The smallest difference, as a size, that these clusters and training seeds find in `POWER` of all cases."""
        return None if self.why else detectable(self.spread, self.level)

    @cached_property
    def clusters_needed(self) -> int | None:
        """Clusters that find a difference as large as the one seen in `POWER` of all cases, at these training seeds.

        None where no number would do, because the seeds differ too much, or nothing can be told.
        """
        return None if self.why else clusters_needed(self.mean.value, self.spread, self.level)

    @property
    def prompts_needed(self) -> int | None:
        """The same in prompts, as many in a cluster as here."""
        needed = self.clusters_needed
        return None if needed is None else math.ceil(needed * self.prompts / self.clusters)


def compare(
    statistics: PairedStatistics,
    method: MethodScores,
    other: MethodScores,
    higher_is_better: bool,
    compared: int = 1,
) -> Difference:
    """All there is to say of one pair of methods. compared: differences that are told together, this one among them."""
    mean = statistics.measure_difference(method, other)
    win_rate = statistics.measure_win_rate(method, other, higher_is_better)
    signs = outcomes(method, other, higher_is_better)
    clusters = mean.spread.clusters
    deviation = math.sqrt(clusters.variance * (clusters.freedom + 1))
    return Difference(
        mean=mean.estimate(statistics.confidence),
        median=statistics.median_difference(method, other),
        win_rate=win_rate.estimate(statistics.confidence),
        wins=float((signs > 0).mean()),
        ties=float((signs == 0).mean()),
        losses=float((signs < 0).mean()),
        effect_size=mean.value / deviation if deviation and not mean.why else None,
        p_value=mean.p_value(),
        p_value_wins=win_rate.p_value(),
        prompts=statistics.prompts,
        clusters=statistics.clusters,
        spread=mean.spread,
        # Holm's strictest step, which the first of several differences has to pass.
        level=(1 - statistics.confidence) / compared,
    )


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Holm's (1979) adjusted p-values: all below a threshold together err less often than it says.

    None, of what nothing can be told, stays None, and counts among the others as 1.
    """
    known = np.array([1.0 if value is None else value for value in p_values])
    order = np.argsort(known, kind="stable")
    adjusted = np.empty(len(known))
    adjusted[order] = np.minimum(np.maximum.accumulate(known[order] * (len(known) - np.arange(len(known)))), 1)
    return [None if value is None else float(one) for value, one in zip(p_values, adjusted, strict=True)]


def measurable(p_adjusted: float | None, level: float) -> bool:
    """Whether a difference may be called one. p_adjusted: by Holm over all that are told together."""
    return p_adjusted is not None and p_adjusted < level


def detectable(spread: Spread, level: float) -> float | None:
    """The smallest difference that a test at `level` finds in `POWER` of all cases; None where none is small enough."""
    scale = math.sqrt(spread.variance)
    reach = _Reach(spread, level)
    most = 10.0
    while reach.power(most * scale) < POWER:
        if (most := most * 10) > 1e12:
            return None
    return float(optimize.brentq(lambda size: reach.power(size * scale) - POWER, 0.0, most, xtol=1e-4)) * scale


def clusters_needed(difference: float, spread: Spread, level: float) -> int | None:
    """Clusters for a test at `level` to find `difference` in `POWER` of all cases, from as many as `spread` is of.

    None where `MOST_CLUSTERS` would not do.
    """
    count = spread.clusters.freedom + 1

    def finds(clusters: int) -> bool:
        factor = count / clusters
        of_clusters = replace(spread.clusters, variance=spread.clusters.variance * factor, freedom=clusters - 1)
        of_seeds = spread.of_seeds + spread.shared * factor if spread.seeds.variance else 0.0
        scaled = Spread(of_clusters, Part(of_seeds, spread.seeds.freedom), spread.shared * factor)
        return _Reach(scaled, level).power(abs(difference)) >= POWER

    low, high = 1, 2
    while not finds(high):
        low, high = high, high * 4
        if high > MOST_CLUSTERS:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if finds(middle) else (middle, high)
    return high


class _Reach:
    """How far the interval of a difference goes, over repetitions of a study whose true variances are `spread`.

    Differences that are normal: variances are found as chi-squares, and the skewness that widens the interval is that
    of a normal sample.
    """

    SHARES = (np.arange(24) + 0.5) / 24
    SKEWS = (np.arange(8) + 0.5) / 8

    def __init__(self, spread: Spread, level: float) -> None:
        self._deviation = math.sqrt(spread.variance)
        shape = (-1, 1, 1), (1, -1, 1), (1, 1, -1)
        clusters = _found(spread.clusters, self.SHARES).reshape(shape[0])
        seeds = _found(spread.seeds, self.SHARES).reshape(shape[1])
        count = spread.clusters.freedom + 1
        skewness = special.ndtri(self.SKEWS).reshape(shape[2]) * math.sqrt(6 / (count + 3)) / math.sqrt(count)
        of_clusters, of_seeds = spread.clusters.freedom, spread.seeds.freedom
        parts = shares(clusters, seeds, spread.shared)
        squares = squared_t(level / 2, *parts, of_clusters, of_seeds)
        wider = widening(skewness, of_clusters) ** 2
        alone = special.stdtrit(of_clusters, level / 2) ** 2 * clusters
        self._reach = np.sqrt(np.maximum(squares[0] * parts[0] * wider + squares[1] * parts[1], alone * wider))

    def power(self, difference: float) -> float:
        """How often the interval of this difference leaves out 0."""
        return float(special.ndtr((difference - self._reach) / self._deviation).mean())


def _found(part: Part, shares: np.ndarray) -> np.ndarray:
    """Variances that a sample finds, at these shares of all samples."""
    if not part.freedom:
        return np.full_like(shares, part.variance)
    return part.variance * special.gammaincinv(part.freedom / 2, shares) / (part.freedom / 2)
