"""Means, differences and win rates over paired pictures, with bootstrap percentile intervals.

Every method draws the same prompts from the same noise, so pictures are compared one to one, and all methods share the
same resamples: what is hard about a prompt cancels in a difference. Prompts are resampled whole (a cluster bootstrap:
pictures of one prompt stay together). Where a method has several training seeds, what they add is taken from the sums
of squares of seeds and prompts, and the interval widened by it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy import special

from mapolab.errors import UserError


@dataclass(frozen=True)
class Estimate:
    """A number measured over pictures and its interval."""

    value: float
    low: float
    high: float

    def apart_from(self, other: Estimate) -> bool:
        """Whether the two intervals do not touch: stricter than a difference whose interval excludes 0."""
        return self.low > other.high or self.high < other.low

    def excludes(self, value: float) -> bool:
        """Whether the interval leaves out this value, such as a difference of 0 or a win rate of one half."""
        return self.low > value or self.high < value


@dataclass(frozen=True)
class Part:
    """A share in the variance of a mean. freedom: its degrees of freedom, 0 where it cannot be told."""

    variance: float
    freedom: float


@dataclass(frozen=True)
class Spread:
    """What the variance of a mean is made of.

    prompts, seeds: what each shows by itself. shared: the variance of seed and prompt together, which shows in both.
    """

    prompts: Part
    seeds: Part
    shared: float

    @property
    def of_seeds(self) -> float:
        """The share that no number of prompts lessens."""
        return max(self.seeds.variance - self.shared, 0.0)

    @property
    def variance(self) -> float:
        return self.prompts.variance + self.of_seeds

    def reach(self, tail: float) -> float:
        """Half the width of an interval that leaves out 1 - `tail` on either side; 0 where nothing varies.

        Each part by Student's t with its own degrees of freedom, added as squares (Howe 1974), with the shared variance
        halved between them: where the seeds decide, it is their t, and where they do not, the prompts'. An approximate
        number of degrees of freedom for the sum (Satterthwaite's) covered 91% instead of 95% at three seeds.
        """
        of_prompts = _t(tail, self.prompts) ** 2
        squares = of_prompts * max(self.prompts.variance - self.shared / 2, 0.0)
        squares += _t(tail, self.seeds) ** 2 * max(self.seeds.variance - self.shared / 2, 0.0)
        return math.sqrt(max(squares, of_prompts * self.prompts.variance))

    def reach_of_seeds(self, tail: float) -> float:
        """What the training seeds add, as a square, to the half width that the prompts alone give."""
        return math.sqrt(max(self.reach(tail) ** 2 - _t(tail, self.prompts) ** 2 * self.prompts.variance, 0.0))


def _t(tail: float, part: Part) -> float:
    return float(special.stdtrit(part.freedom, tail)) if part.freedom else 0.0


@dataclass(frozen=True)
class MethodScores:
    """One scorer's values for one method.

    values: (S, N), a row for each training seed, a column for each picture; seeds: the S training seeds, all different.
    """

    values: np.ndarray
    seeds: tuple[int | None, ...]

    def __post_init__(self) -> None:
        if self.values.ndim != 2 or len(self.values) != len(self.seeds):
            raise ValueError(f"{len(self.seeds)} seeds need {len(self.seeds)} rows of values, not {self.values.shape}")


class PairedBootstrap:
    """Estimates over one set of pictures, from resamples that all methods share.

    prompts: (N,), which prompt each picture was drawn for, by any value that numpy can sort.
    Raises UserError for fewer than one resample or a confidence outside of 0..1.
    """

    def __init__(self, prompts: np.ndarray, samples: int = 2000, confidence: float = 0.95, seed: int = 0) -> None:
        if samples < 1 or not 0 < confidence < 1:
            raise UserError(
                f"bootstrap_samples={samples} and confidence={confidence} give no interval. "
                "Take at least 1 resample (2000 is usual) and a confidence between 0 and 1, such as 0.95."
            )
        self.samples, self.confidence, self.seed = samples, confidence, seed
        _, self._prompt_of_picture, pictures_per_prompt = np.unique(prompts, return_inverse=True, return_counts=True)
        self._prompt_count = len(pictures_per_prompt)
        uniform = np.full(self._prompt_count, 1 / self._prompt_count)
        draws = np.random.default_rng([seed, 0]).multinomial(self._prompt_count, uniform, size=samples)
        self._prompt_draws = draws  # (samples, prompts): how often each prompt is in a resample
        # (samples, prompts): times the sums over each prompt's pictures, gives the mean over a resample's pictures.
        self._prompt_weights = draws / (draws @ pictures_per_prompt)[:, None]

    def mean(self, method: MethodScores) -> Estimate:
        """Mean score over seeds and pictures."""
        pictures = method.values.mean(0)
        return self._estimate(pictures, self._spread(pictures, [method.values]))

    def difference(self, method: MethodScores, other: MethodScores) -> Estimate:
        """Mean of `method` minus mean of `other`, paired by picture, and by training seed where both have the same."""
        return self._estimate(method.values.mean(0) - other.values.mean(0), self.spread(method, other))

    def median_difference(self, method: MethodScores, other: MethodScores) -> Estimate:
        """Median over prompts of the mean difference on each prompt.

        What the training seeds add to the mean's interval they add to the bootstrap's: they shift both alike.
        """
        differences = self.by_prompt(method.values.mean(0) - other.values.mean(0))
        order = np.argsort(differences, kind="stable")
        weights = self._prompt_draws[:, order].cumsum(1)
        at = (weights >= (self._prompt_count + 1) // 2).argmax(1)
        value = float(np.median(differences))
        low, high = np.quantile(differences[order][at], self._tails)
        seeds = self.spread(method, other).reach_of_seeds(self._tails[1])
        return Estimate(value, value - math.hypot(value - low, seeds), value + math.hypot(high - value, seeds))

    def win_rate(self, method: MethodScores, other: MethodScores, higher_is_better: bool) -> Estimate:
        """Share of pictures where `method` scores better, ties as half, over every pair of a run of each: 0..1."""
        wins = (1 + outcomes(method, other, higher_is_better)) / 2  # (S, T, N)
        estimate = self._estimate(wins.mean((0, 1)), self.win_spread(method, other, higher_is_better))
        return Estimate(estimate.value, max(estimate.low, 0.0), min(estimate.high, 1.0))

    def by_prompt(self, values: np.ndarray) -> np.ndarray:
        """(N,) values of pictures -> (P,) means over each prompt's pictures."""
        return np.bincount(self._prompt_of_picture, values) / np.bincount(self._prompt_of_picture)

    def spread(self, method: MethodScores, other: MethodScores) -> Spread:
        """What the variance of a mean difference is made of: the prompts, then the training seeds."""
        differences = method.values.mean(0) - other.values.mean(0)
        paired = method.seeds == other.seeds
        return self._spread(differences, [method.values - other.values] if paired else [method.values, other.values])

    def win_spread(self, method: MethodScores, other: MethodScores, higher_is_better: bool) -> Spread:
        """What the variance of the win rate is made of: the prompts, then each method's training seeds."""
        wins = (1 + outcomes(method, other, higher_is_better)) / 2  # (S, T, N)
        return self._spread(wins.mean((0, 1)), [wins.mean(1), wins.mean(0)])

    def _spread(self, pictures: np.ndarray, tables: list[np.ndarray]) -> Spread:
        """Of the mean of (N,) values that are the means (or their difference) of each of the (S, N) tables.

        By the sums of squares of seeds and prompts; two methods' seeds by Welch's degrees of freedom.
        """
        seeds = [self._seed_part(table) for table in tables if len(table) > 1]
        variance = sum(part.variance for part, _ in seeds)
        certainty = sum(part.variance**2 / part.freedom for part, _ in seeds)
        freedom = variance**2 / certainty if certainty else 0
        return Spread(self._prompt_part(pictures), Part(variance, freedom), sum(shared for _, shared in seeds))

    def _prompt_part(self, pictures: np.ndarray) -> Part:
        """Of the mean of (N,) values, as of clusters of unequal size."""
        if self._prompt_count == 1:
            return Part(0.0, 0)
        sizes = np.bincount(self._prompt_of_picture)
        offsets = np.bincount(self._prompt_of_picture, pictures - pictures.mean())
        clusters = self._prompt_count
        return Part(float((offsets**2).sum() / sizes.sum() ** 2 * clusters / (clusters - 1)), clusters - 1)

    def _seed_part(self, rows: np.ndarray) -> tuple[Part, float]:
        """What seeds make of the variance of the mean of (S, N) values, and how much of it is theirs with the
        prompts."""
        count, prompts = len(rows), self._prompt_count
        table = np.stack([self.by_prompt(row) for row in rows])
        together = table - table.mean(0) - table.mean(1, keepdims=True) + table.mean()
        shared = float((together**2).sum() / max((count - 1) * (prompts - 1), 1) / (count * prompts))
        return Part(float(rows.mean(1).var(ddof=1) / count), count - 1), shared

    def _estimate(self, pictures: np.ndarray, spread: Spread) -> Estimate:
        """The mean of (N,) values. Its interval has the shape of the means over resampled prompts, and the width of the
        whole spread: training seeds are too few to resample."""
        value = float(pictures.mean())
        resampled = self._prompt_weights @ np.bincount(self._prompt_of_picture, pictures)
        reach, normal = spread.reach(self._tails[1]), special.ndtri(self._tails[1])
        if (deviation := resampled.std()) > 0:
            low, high = (np.quantile(resampled, self._tails) - value) * reach / (normal * deviation)
        else:
            low, high = -reach, reach
        return Estimate(value, value + float(low), value + float(high))

    @property
    def _tails(self) -> tuple[float, float]:
        return (1 - self.confidence) / 2, (1 + self.confidence) / 2


def outcomes(method: MethodScores, other: MethodScores, higher_is_better: bool) -> np.ndarray:
    """(S, T, N): 1 where the run of `method` scores better, 0 for a tie, -1 where it scores worse."""
    return (1 if higher_is_better else -1) * np.sign(method.values[:, None] - other.values[None])
