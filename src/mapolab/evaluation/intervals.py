"""From a mean or a share and what its variance is made of to an interval, and to the p-value that belongs to it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy import special

INTERVALS = "confidence intervals (Student's t; of shares, Agresti and Coull's)"
"""What the intervals are called."""
NO_SPREAD = "no spread"
TOO_FEW = "too few clusters"
SMALLEST = 1e-12
"""p-values below this are given as this."""
RESOLUTION = 4 * float(np.finfo(np.float32).eps)
"""Of scores, which are float32: smaller differences, as a share of the scores, are noise of arithmetic."""
TIED = 0.03
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

        The clusters' share is widened as their skewness asks for, and never less than it would be without seeds.
        """
        of_clusters, of_seeds = self.squares(tail)
        alone = _t(tail, self.clusters) ** 2 * self.clusters.variance
        below, above = (math.sqrt(max(of_clusters * wider**2 + of_seeds, alone * wider**2)) for wider in self._widening)
        return below, above

    def squares(self, tail: float) -> tuple[float, float]:
        """What clusters and seeds add to the square of half an interval's width: variances times squares of t."""
        clusters, seeds = shares(self.clusters.variance, self.seeds.variance, self.shared)
        quantiles = squared_t(1 - tail, clusters, seeds, self.clusters.freedom, self.seeds.freedom)
        return float(quantiles[0] * clusters), float(quantiles[1] * seeds)

    @cached_property
    def _widening(self) -> tuple[float, float]:
        skewness, freedom = self.clusters.skewness, self.clusters.freedom
        return float(widening(skewness, freedom)), float(widening(-skewness, freedom))


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

    That number is drawn a little to the number of clusters, which it is where all clusters agree. single: each cluster
    is one picture of one run of each method, so that the variance follows from the share and is not estimated.
    """

    value: float
    spread: Spread
    why: str | None
    single: bool = False

    def limits(self, level: float) -> tuple[float, float]:
        clusters, tail = self.spread.clusters, 1 - level / 2
        count = clusters.freedom + 1
        # One over the number of independent pictures.
        single = (clusters.variance + TIED / count**2) / (self.value * (1 - self.value) + TIED / count)
        if self.single:
            return _within(self._limits(single * float(special.ndtri(level / 2)) ** 2, 0.0))
        alone = _t(tail, clusters) ** 2
        of_clusters, of_seeds = self.spread.squares(tail)
        beside_seeds = of_clusters / clusters.variance if clusters.variance else alone
        both = [self._limits(single * alone, 0.0), self._limits(single * beside_seeds, of_seeds)]
        return _within((min(low for low, _ in both), max(high for _, high in both)))

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


def _within(limits: tuple[float, float]) -> tuple[float, float]:
    return max(limits[0], 0.0), min(limits[1], 1.0)


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


def shares(clusters, seeds, shared):
    """The variances of clusters and seeds with what shows in both halved between them. Floats or arrays."""
    return np.maximum(clusters - shared / 2, 0.0), np.maximum(seeds - shared / 2, 0.0)


def squared_t(tail: float, clusters, seeds, of_clusters: float, of_seeds: float):
    """By which squares of Student's t to multiply the variances of clusters and seeds, with these degrees of freedom.

    The mean of two approximations that fail in opposite ways: each part by its own t (Howe 1974), which at three seeds
    covers up to 98%, and both by the t of Satterthwaite's (1946) degrees of freedom, which covers down to 92%.
    """
    own = [special.stdtrit(freedom, tail) ** 2 if freedom else 0.0 for freedom in (of_clusters, of_seeds)]
    if not of_seeds:
        return own
    certainty = (clusters**2 / of_clusters if of_clusters else 0.0) + seeds**2 / of_seeds
    freedom = (clusters + seeds) ** 2 / np.where(certainty > 0, certainty, 1.0)
    together = np.where(freedom > 0, special.stdtrit(np.maximum(freedom, 1e-9), tail) ** 2, 0.0)
    return [(one + together) / 2 for one in own]


def _t(tail: float, part: Part) -> float:
    return -float(special.stdtrit(part.freedom, 1 - tail)) if part.freedom else 0.0


def widening(skewness: np.ndarray | float, freedom: float) -> np.ndarray:
    """By how much to lengthen the lower arm of an interval around a mean of this skewness, of the upper one of its
    negative; at least 1.

    Where Hall's (1992) cubic transformation puts the t of a 95% interval. The same at every level: further out it would
    take most of what small samples can show. It lengthens and never shortens: that covered 93% where tails are as heavy
    as those of t with three degrees of freedom.
    """
    skewness = np.where(np.abs(skewness) < 1e-6, 1e-6, skewness)
    t = special.stdtrit(freedom, 0.975) if freedom else 1.0
    return np.maximum(3 / skewness * (np.cbrt(1 + skewness * (t - skewness / 6)) - 1) / t, 1.0)
