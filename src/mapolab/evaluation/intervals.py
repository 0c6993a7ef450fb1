"""From a mean or a share and what its variance is made of to an interval, and to the p-value that belongs to it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy import special

INTERVALS = "Student-t intervals"
"""What the intervals are called."""
NO_SPREAD = "no spread"
TOO_FEW = "too few clusters"
SMALLEST = 1e-12
"""p-values below this are given as this."""
RESOLUTION = 4 * float(np.finfo(np.float32).eps)
"""Of scores, which are float32: smaller differences, as a share of the scores, are noise of arithmetic."""
TIED = 0.1
"""How many clusters' worth of evidence stands for a share whose clusters are independent pictures."""


@dataclass(frozen=True)
class Estimate:
    """A number measured over pictures, and its interval, which contains it.

    low, high: None where no interval can be told; why: the reason, `NO_SPREAD` or `TOO_FEW`.
    """

    value: float
    low: float | None
    high: float | None
    why: str | None = None

    @property
    def known(self) -> bool:
        """Whether there is an interval."""
        return self.low is not None and self.high is not None

    def excludes(self, value: float) -> bool:
        """Whether the interval leaves out this value; not where it is unknown. No test: see `measurable`."""
        return self.low is not None and self.high is not None and (self.low > value or self.high < value)


@dataclass(frozen=True)
class Part:
    """A share in the variance of a mean. freedom: its degrees of freedom, 0 where it cannot be told. skewness: of the
    mean, over its standard deviation."""

    variance: float
    freedom: float
    skewness: float = 0.0


@dataclass(frozen=True)
class Spread:
    """What the variance of a mean is made of.

    clusters, seeds: what each shows by itself. shared: the variance of seed and cluster together, which shows in both.
    """

    clusters: Part
    seeds: Part
    shared: float

    @property
    def of_seeds(self) -> float:
        """The share that no number of clusters lessens."""
        return max(self.seeds.variance - self.shared, 0.0)

    @property
    def variance(self) -> float:
        return self.clusters.variance + self.of_seeds

    def reach(self, tail: float) -> tuple[float, float]:
        """How far an interval goes below and above the mean that leaves out 1 - `tail` on either side.

        Each part by Student's t with its own degrees of freedom, added as squares (Howe 1974), with the shared variance
        halved between them: where the seeds decide, it is their t, and where they do not, the clusters'. (Welch and
        Satterthwaite's degrees of freedom for the sum covered 91% instead of 95% at three seeds.) The clusters' t is
        widened to where their skewness puts it (Hall 1992), and never narrowed by it, which covered 93% where tails
        are as heavy as those of t with three degrees of freedom.
        """
        plain = _t(tail, self.clusters)
        skewed = _skewed(plain, self.clusters.skewness), -_skewed(-plain, self.clusters.skewness)
        seeds = _t(tail, self.seeds) ** 2 * max(self.seeds.variance - self.shared / 2, 0.0)
        below, above = (max(plain, one) ** 2 for one in skewed)
        rest = max(self.clusters.variance - self.shared / 2, 0.0)
        return tuple(math.sqrt(max(t * rest + seeds, t * self.clusters.variance)) for t in (below, above))

    def reach_of_seeds(self, tail: float) -> float:
        """What the training seeds add, as a square, to the half width that the clusters alone give."""
        return math.sqrt(max(_t(tail, self.seeds) ** 2 * (self.seeds.variance - self.shared / 2), 0.0))


@dataclass(frozen=True)
class Mean:
    """A mean or a difference of means. why: the reason for which nothing can be told of it, None where it can."""

    value: float
    spread: Spread
    why: str | None
    bounds: tuple[float, float]

    def limits(self, level: float) -> tuple[float, float]:
        """Of the interval that leaves out `level`, within what the scorer can give."""
        below, above = self.spread.reach(1 - level / 2)
        least, most = self.bounds
        return max(self.value - below, min(least, self.value)), min(self.value + above, max(most, self.value))

    def estimate(self, confidence: float) -> Estimate:
        return _estimate(self, confidence)

    def p_value(self, value: float = 0.0) -> float | None:
        """The level at which the interval ends at `value`; None where nothing can be told."""
        return _level(self, value)


@dataclass(frozen=True)
class Rate:
    """A share, 0..1: Agresti and Coull's (1998) interval, with as many independent pictures as the clusters' variance
    stands for.

    That number is drawn a little to the number of clusters, which it is where all clusters agree.
    """

    value: float
    spread: Spread
    why: str | None

    def limits(self, level: float) -> tuple[float, float]:
        clusters, seeds, shared = self.spread.clusters, self.spread.seeds, self.spread.shared
        count = clusters.freedom + 1
        alone = (clusters.variance + TIED / count**2) / (self.value * (1 - self.value) + TIED / count)
        alone *= _t(1 - level / 2, clusters) ** 2
        share = 1 - shared / 2 / clusters.variance if clusters.variance else 1.0
        of_seeds = _t(1 - level / 2, seeds) ** 2 * max(seeds.variance - shared / 2, 0.0)
        both = [self._limits(alone, 0.0), self._limits(alone * max(share, 0.0), of_seeds)]
        return max(min(low for low, _ in both), 0.0), min(max(high for _, high in both), 1.0)

    def estimate(self, confidence: float) -> Estimate:
        return _estimate(self, confidence)

    def p_value(self, value: float = 0.5) -> float | None:
        """The level at which the interval ends at `value`; None where nothing can be told."""
        return _level(self, value)

    def _limits(self, ratio: float, of_seeds: float) -> tuple[float, float]:
        """ratio: square of t over the number of independent pictures."""
        middle = (self.value + ratio / 2) / (1 + ratio)
        reach = math.sqrt(ratio * middle * (1 - middle) / (1 + ratio) + of_seeds)
        return min(middle - reach, self.value), max(middle + reach, self.value)


def _estimate(measured: Mean | Rate, confidence: float) -> Estimate:
    limits = (None, None) if measured.why else measured.limits(1 - confidence)
    return Estimate(measured.value, *limits, measured.why)


def _level(measured: Mean | Rate, value: float) -> float | None:
    if measured.why:
        return None

    def holds(level: float) -> bool:
        low, high = measured.limits(level)
        return low <= value <= high

    if holds(1.0):
        return 1.0
    low, high = math.log(SMALLEST), 0.0
    while high - low > 1e-9:
        middle = (low + high) / 2
        low, high = (middle, high) if holds(math.exp(middle)) else (low, middle)
    return math.exp(low)


def _t(tail: float, part: Part) -> float:
    return -float(special.stdtrit(part.freedom, 1 - tail)) if part.freedom else 0.0


def _skewed(t: float, skewness: float) -> float:
    """Hall's (1992) cubic transformation, backwards: which t has the rank that `t` has without skewness."""
    if abs(skewness) < 1e-6:
        return t
    return 3 / skewness * (float(np.cbrt(1 + skewness * (t - skewness / 6))) - 1)
