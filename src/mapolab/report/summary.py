"""The numbers of a comparison: every estimate that the tables, the plots and the page show."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import combinations
from typing import Any

import numpy as np

from mapolab.evaluation.differences import Difference, compare, holm, measurable
from mapolab.evaluation.intervals import Estimate
from mapolab.evaluation.statistics import MethodScores, PairedStatistics
from mapolab.report.runs import Method, Run
from mapolab.texts import visible


@dataclass(frozen=True)
class ScoreSummary:
    """One scorer's estimates by method label.

    about: the scorer's entry in the evaluation's settings (name, higher_is_better, description, ...). mean, median: of
    the scores. against[label][other label]: one method against another. level: what an adjusted p-value has to stay
    below. p_adjusted: of each method's difference from the base, by Holm over all methods and scorers of the
    comparison. p_of_pair, p_wins_of_pair: of any two methods' mean difference and win rate, by Holm over all pairs and
    scorers. None where nothing can be told; `against[...].why` is the reason.
    """

    about: dict[str, Any]
    base: str
    mean: dict[str, Estimate]
    median: dict[str, float]
    against: dict[str, dict[str, Difference]]
    level: float
    p_adjusted: dict[str, float | None] = field(default_factory=dict)
    p_of_pair: dict[frozenset[str], float | None] = field(default_factory=dict)
    p_wins_of_pair: dict[frozenset[str], float | None] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.about["name"]

    @property
    def higher_is_better(self) -> bool:
        return self.about["higher_is_better"]

    @property
    def difference(self) -> dict[str, Estimate]:
        """Of each method's mean from the base's, paired."""
        return {label: others[self.base].mean for label, others in self.against.items() if label != self.base}

    @property
    def win_rate(self) -> dict[str, dict[str, Estimate]]:
        return {
            label: {other: found.win_rate for other, found in others.items()} for label, others in self.against.items()
        }

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """Every two methods once, the later one first, so that the base is always the other."""
        return [(later, earlier) for earlier, later in combinations(self.against, 2)]

    def win_is_clear(self, label: str, other: str) -> bool:
        """Whether the win rate's difference from one half is measurable among all pairs and scorers."""
        return measurable(self.p_wins_of_pair[frozenset((label, other))], self.level)

    def differs(self, label: str, other: str) -> bool:
        """Whether the difference of the means is measurable among all pairs and scorers."""
        return measurable(self.p_of_pair[frozenset((label, other))], self.level)

    def verdict(self, label: str) -> str:
        """Measurably better or worse than the base, else same; unknown where nothing can be told."""
        if self.p_adjusted.get(label) is None:
            return "unknown"
        if not measurable(self.p_adjusted[label], self.level):
            return "same"
        return "better" if (self.difference[label].value > 0) == self.higher_is_better else "worse"


@dataclass(frozen=True)
class Comparison:
    """A base, the methods that started from it, and what was measured.

    prompts, clusters: how many. clustered: whether the prompts' file says which belong together.
    """

    base: Method
    methods: list[Method]
    scores: list[ScoreSummary]
    confidence: float
    prompts: int
    clusters: int
    clustered: bool

    @property
    def over(self) -> str:
        """`96 prompts in 12 clusters`"""
        prompts = f"{self.prompts} prompt{'s' if self.prompts > 1 else ''}"
        return f"{prompts} in {self.clusters} cluster{'s' if self.clusters > 1 else ''}" if self.clustered else prompts

    def statistics(self, pictures: np.ndarray | None = None) -> PairedStatistics:
        """Of the chosen pictures, (N,) bool in the order of `Run.pictures`; None: of all."""
        return statistics_of(self.base.runs[0], self.confidence, pictures)

    @cached_property
    def names(self) -> dict[str, str]:
        """Method label -> what it is called in tables and on the page."""
        return {method.label: visible(method.name) for method in self.everyone}

    @property
    def everyone(self) -> list[Method]:
        """The base, then the methods."""
        return [self.base, *self.methods]

    @property
    def base_name(self) -> str:
        """What the base is called in a sentence: by its own name, unless it is what runs started from."""
        return "the base" if self.base.label == "base" else self.names[self.base.label]

    @property
    def trained(self) -> list[Method]:
        """The methods that were trained here: others have no training seeds, curves or costs."""
        return [method for method in self.methods if method.trained]

    def place(self, label: str) -> int:
        """Its place among `everyone`, which decides its colour and mark in every plot; 0 for the base."""
        return [method.label for method in self.everyone].index(label)

    @property
    def settings(self) -> dict[str, Any]:
        """The evaluation's settings, the same for all."""
        return self.base.runs[0].settings


def compare_methods(base: Method, methods: list[Method], confidence: float) -> Comparison:
    """Estimate every score of every method, by the clusters of the base's prompts.

    Raises UserError for a bad confidence or scores.
    """
    run = base.runs[0]
    statistics = statistics_of(run, confidence)
    scorers = [about for about in run.settings["scorers"] if _everyone_has(about["name"], methods)]
    scores = [_summarise(about, statistics, base, methods, len(scorers)) for about in scorers]
    _correct(scores)
    clustered = any(row.get("cluster") for row in run.pictures)
    return Comparison(base, methods, scores, confidence, statistics.prompts, statistics.clusters, clustered)


def statistics_of(run: Run, confidence: float, pictures: np.ndarray | None = None) -> PairedStatistics:
    """By the clusters of the run's prompts; a prompt without one is its own. pictures: (N,) bool, which; None: all."""
    prompts = np.array([row["prompt"] for row in run.pictures])
    clusters = np.array(_clusters(run))
    chosen = slice(None) if pictures is None else pictures
    return PairedStatistics(prompts[chosen], clusters[chosen], confidence)


def bounded(method: Method, about: dict[str, Any]) -> MethodScores:
    """The method's values by a scorer, and what the scorer can give."""
    least, most = about.get("minimum"), about.get("maximum")
    bounds = (-math.inf if least is None else least, math.inf if most is None else most)
    return replace(method.scores(about["name"]), bounds=bounds)


def _clusters(run: Run) -> list[str]:
    # Told apart, so that a prompt without a cluster joins none whose name it is.
    return [f"cluster {row['cluster']}" if row.get("cluster") else f"prompt {row['prompt']}" for row in run.pictures]


def _everyone_has(scorer: str, methods: list[Method]) -> bool:
    """Scorers that only some were judged by are left out of the comparison."""
    return all(scorer in run.table.scorers for method in methods for run in method.runs)


def _summarise(
    about: dict, statistics: PairedStatistics, base: Method, methods: list[Method], scorers: int
) -> ScoreSummary:
    values = {method.label: bounded(method, about) for method in [base, *methods]}
    from_base = scorers * len(methods)
    of_pairs = scorers * len(values) * (len(values) - 1) // 2

    def against(label: str, other: str) -> Difference:
        compared = from_base if base.label in (label, other) else of_pairs
        return compare(statistics, values[label], values[other], about["higher_is_better"], compared)

    return ScoreSummary(
        about,
        base.label,
        mean={label: statistics.mean(own) for label, own in values.items()},
        median={label: float(np.median(own.values)) for label, own in values.items()},
        against={label: {other: against(label, other) for other in values if other != label} for label in values},
        level=1 - statistics.confidence,
    )


def _correct(scores: list[ScoreSummary]) -> None:
    """Holm over every difference from the base that the comparison shows, and over every pair of methods."""
    shown = [(score, label) for score in scores for label in score.against if label != score.base]
    adjusted = holm([score.against[label][score.base].p_value for score, label in shown])
    for (score, label), p_value in zip(shown, adjusted, strict=True):
        score.p_adjusted[label] = p_value
    pairs = [(score, one, other) for score in scores for one, other in score.pairs]
    means = holm([score.against[one][other].p_value for score, one, other in pairs])
    wins = holm([score.against[one][other].p_value_wins for score, one, other in pairs])
    for (score, one, other), of_mean, of_wins in zip(pairs, means, wins, strict=True):
        score.p_of_pair[frozenset((one, other))] = of_mean
        score.p_wins_of_pair[frozenset((one, other))] = of_wins
