"""Means, differences, medians and win rates over paired pictures, with intervals and the p-values that belong to them.

Every method draws the same prompts from the same noise, so pictures are compared one to one: what is hard about a
prompt cancels in a difference. Pictures of a cluster (by default a prompt; captions of one concept, paraphrases of one
source) are no independent evidence: what varies is told from the means of clusters. Where a method has several
training seeds, what they add is taken from the sums of squares of seeds and clusters. A p-value is the level at which
the interval ends at the value in question, found from the interval itself. scripts/coverage.py simulates how often all
of them hold.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy import special

from mapolab.errors import UserError
from mapolab.evaluation.intervals import (
    NO_SPREAD,
    RESOLUTION,
    TOO_FEW,
    Estimate,
    Mean,
    Part,
    Rate,
    Spread,
)

MINIMUM = 6
"""Fewer clusters show nothing: of five, all point one way by chance in 1 of 16 cases, of six in 1 of 32."""


@dataclass(frozen=True)
class MethodScores:
    """One scorer's values for one method.

    values: (S, N), a row for each training seed, a column for each picture; seeds: the S training seeds, all different.
    bounds: the least and the largest value that the scorer can give.
    """

    values: np.ndarray
    seeds: tuple[int | None, ...]
    bounds: tuple[float, float] = (-math.inf, math.inf)

    def __post_init__(self) -> None:
        if self.values.ndim != 2 or len(self.values) != len(self.seeds):
            raise ValueError(f"{len(self.seeds)} seeds need {len(self.seeds)} rows of values, not {self.values.shape}")


class PairedStatistics:
    """Estimates over one set of pictures.

    prompts: (N,), which prompt each picture was drawn for, by any value that numpy can sort. clusters: (N,), which
    pictures belong together, None: those of a prompt. Raises UserError for a confidence outside of 0..1, and for a
    prompt in two clusters.
    """

    def __init__(self, prompts: np.ndarray, clusters: np.ndarray | None = None, confidence: float = 0.95) -> None:
        if not 0 < confidence < 1:
            raise UserError(
                f"confidence={confidence} gives no interval. Take a confidence between 0 and 1, such as 0.95."
            )
        self.confidence = confidence
        _, self._prompt_of_picture, self._prompt_sizes = np.unique(prompts, return_inverse=True, return_counts=True)
        ids = prompts if clusters is None else clusters
        _, self._cluster_of_picture, sizes = np.unique(ids, return_inverse=True, return_counts=True)
        self.prompts, self.clusters = len(self._prompt_sizes), len(sizes)
        self._sizes, self._weights = sizes, sizes / sizes.sum()
        self._cluster_of_prompt = np.zeros(self.prompts, dtype=int)
        self._cluster_of_prompt[self._prompt_of_picture] = self._cluster_of_picture
        astray = self._cluster_of_prompt[self._prompt_of_picture] != self._cluster_of_picture
        if astray.any():
            raise UserError(
                f"The prompt {str(np.asarray(prompts)[astray][0])!r} stands in two clusters. Give all rows of a "
                "prompt one value in the column cluster."
            )
        self._effective = 1 / float((self._weights**2).sum())  # as many clusters of one size would tell as much

    def mean(self, method: MethodScores) -> Estimate:
        """Mean score over seeds and pictures. Of scores that are all 0 or 1 it is a share, and so is its interval."""
        pictures, tables = method.values.mean(0), [method.values]
        if method.bounds == (0, 1) and np.isin(method.values, (0, 1)).all():
            spread, single = self._spread(pictures, tables, RESOLUTION), self._is_single(method)
            return Rate(float(pictures.mean()), spread, self._too_few, single).estimate(self.confidence)
        return self._mean(pictures, tables, [method], method.bounds).estimate(self.confidence)

    def difference(self, method: MethodScores, other: MethodScores) -> Estimate:
        """Mean of `method` minus mean of `other`, paired by picture, and by training seed where both have the same."""
        return self.measure_difference(method, other).estimate(self.confidence)

    def measure_difference(self, method: MethodScores, other: MethodScores) -> Mean:
        """The same, whose p-value and spread can be asked for."""
        paired = method.seeds == other.seeds
        tables = [method.values - other.values] if paired else [method.values, other.values]
        bounds = method.bounds[0] - other.bounds[1], method.bounds[1] - other.bounds[0]
        return self._mean(method.values.mean(0) - other.values.mean(0), tables, [method, other], bounds)

    def win_rate(self, method: MethodScores, other: MethodScores, higher_is_better: bool) -> Estimate:
        """Share of pictures where `method` scores better, ties as half, over every pair of a run of each: 0..1."""
        return self.measure_win_rate(method, other, higher_is_better).estimate(self.confidence)

    def measure_win_rate(self, method: MethodScores, other: MethodScores, higher_is_better: bool) -> Rate:
        """The same, whose p-value can be asked for."""
        wins = (1 + outcomes(method, other, higher_is_better)) / 2  # (S, T, N)
        pictures = wins.mean((0, 1))
        spread = self._spread(pictures, [wins.mean(1), wins.mean(0)], RESOLUTION)
        return Rate(float(pictures.mean()), spread, self._too_few, self._is_single(method, other))

    def median_difference(self, method: MethodScores, other: MethodScores) -> Estimate:
        """Median over prompts of the mean difference on each prompt, between order statistics of the prompts.

        How many prompts lie below the median varies as their clusters let it (Woodruff 1952). Interpolated where no two
        prompts are equal (Hettmansperger and Sheather 1986), else from the outer prompt. What the training seeds add to
        the mean's interval they add to this one's: they shift both alike.
        """
        differences = self._by_prompt(method.values.mean(0) - other.values.mean(0))
        value, mean = float(np.median(differences)), self.measure_difference(method, other)
        if mean.why:
            return Estimate(value, None, None, mean.why)
        above = np.bincount(self._cluster_of_prompt, np.sign(differences - value) / 2)
        # A prompt that is its own cluster is on either side with one half: nothing about that is estimated.
        freedom = np.inf if self.clusters == self.prompts else self._effective - 1
        tail = (1 + self.confidence) / 2
        reach = float(special.stdtrit(freedom, tail)) * math.sqrt((above**2).sum()) / self.prompts
        low, high = _quantiles(np.sort(differences), 0.5 - reach, 0.5 + reach)
        seeds = math.sqrt(mean.spread.squares(tail)[1])
        low, high = value - math.hypot(value - low, seeds), value + math.hypot(high - value, seeds)
        return Estimate(value, max(low, min(mean.bounds[0], value)), min(high, max(mean.bounds[1], value)))

    def _by_prompt(self, values: np.ndarray) -> np.ndarray:
        """(N,) values of pictures -> (P,) means over each prompt's pictures."""
        return np.bincount(self._prompt_of_picture, values) / self._prompt_sizes

    def _is_single(self, *methods: MethodScores) -> bool:
        return self.clusters == len(self._prompt_of_picture) and all(len(method.seeds) == 1 for method in methods)

    @property
    def _too_few(self) -> str | None:
        return TOO_FEW if self.clusters < MINIMUM else None

    def _mean(self, pictures, tables, methods, bounds: tuple[float, float]) -> Mean:
        """Of (N,) values that are the means (or their difference) of each of the (S, N) tables."""
        resolution = RESOLUTION * max(float(np.abs(method.values).max()) for method in methods)
        spread = self._spread(pictures, tables, resolution)
        why = self._too_few or (None if spread.variance else NO_SPREAD)
        return Mean(float(pictures.mean()), spread, why, bounds)

    def _spread(self, pictures: np.ndarray, tables: list[np.ndarray], resolution: float) -> Spread:
        """What the variance of the mean of (N,) values is made of: the clusters, then the training seeds.

        By the sums of squares of seeds and clusters; two methods' seeds by Welch's degrees of freedom. What varies by
        less than the resolution of the scores does not vary.
        """
        parts = [self._seed_part(table, resolution) for table in tables if len(table) > 1]
        variance = sum(part.variance for part, _ in parts)
        certainty = sum(part.variance**2 / part.freedom for part, _ in parts)
        freedom = variance**2 / certainty if certainty else 0
        clusters = self._cluster_part(pictures, resolution)
        return Spread(clusters, Part(variance, freedom), sum(shared for _, shared in parts))

    def _by_cluster(self, values: np.ndarray) -> np.ndarray:
        return np.bincount(self._cluster_of_picture, values) / self._sizes

    def _cluster_part(self, pictures: np.ndarray, resolution: float) -> Part:
        """Of the mean of (N,) values, from the means of clusters, which may be of unequal size."""
        means = self._by_cluster(pictures)
        if self.clusters == 1 or np.ptp(means) <= resolution:
            return Part(0.0, self._effective - 1, 0.0)
        offsets = self._weights * (means - pictures.mean())
        variance = float((offsets**2).sum()) * self._unbiased
        count = max(self._effective, 3.0)
        skewness = float((offsets**3).sum()) / variance**1.5 * count**2 / ((count - 1) * (count - 2))
        return Part(variance, self._effective - 1, skewness)

    @property
    def _unbiased(self) -> float:
        """C / (C - 1) for C clusters of one size."""
        squares, cubes = (self._weights**2).sum(), (self._weights**3).sum()
        return float(squares / (squares - 2 * cubes + squares**2))

    def _seed_part(self, rows: np.ndarray, resolution: float) -> tuple[Part, float]:
        """What seeds make of the variance of the mean of (S, N) values, and how much of it is theirs with the
        clusters."""
        count, means = len(rows), rows.mean(1)
        if np.ptp(means) <= resolution:
            return Part(0.0, count - 1), 0.0
        table = np.stack([self._by_cluster(row) for row in rows])
        together = table - table.mean(0) - means[:, None] + means.mean()
        shared = 0.0
        if self.clusters > 1:
            shared = float(((self._weights * together) ** 2).sum()) * self._unbiased / (count * (count - 1))
        return Part(float(means.var(ddof=1) / count), count - 1), shared


def outcomes(method: MethodScores, other: MethodScores, higher_is_better: bool) -> np.ndarray:
    """(S, T, N): 1 where the run of `method` scores better, 0 for a tie, -1 where it scores worse.

    Scores that differ by less than their resolution tie.
    """
    own, theirs = method.values[:, None], other.values[None]
    tied = np.abs(own - theirs) <= RESOLUTION * np.maximum(np.abs(own), np.abs(theirs))
    return (1 if higher_is_better else -1) * np.where(tied, 0.0, np.sign(own - theirs))


def _quantiles(ordered: np.ndarray, low: float, high: float) -> tuple[float, float]:
    """Two shares of (P,) ordered values, the first below one half."""
    places = np.clip(np.array([low, high]) * len(ordered) - 0.5, 0, len(ordered) - 1)
    if (np.diff(ordered) == 0).any():
        places = np.array([np.floor(places[0]), np.ceil(places[1])])
    below, above = np.interp(places, np.arange(len(ordered)), ordered)
    return float(below), float(above)
