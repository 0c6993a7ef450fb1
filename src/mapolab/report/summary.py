"""The numbers of a comparison: every estimate that the tables, the plots and the page show."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from itertools import combinations
from typing import Any

import numpy as np

from mapolab.evaluation.differences import Difference, compare, holm
from mapolab.evaluation.statistics import Estimate, PairedBootstrap
from mapolab.report.runs import Method


@dataclass(frozen=True)
class ScoreSummary:
    """One scorer's estimates by method label.

    about: the scorer's entry in the evaluation's settings (name, higher_is_better, description, ...). mean, median: of
    the scores. against[label][other label]: one method against another. level: what a p-value has to stay below.
    p_adjusted: of each method's difference from the base, by Holm over all methods and scorers of the comparison.
    p_of_pair, p_wins_of_pair: of any two methods' mean difference and win rate, by Holm over all pairs and scorers.
    """

    about: dict[str, Any]
    base: str
    mean: dict[str, Estimate]
    median: dict[str, float]
    against: dict[str, dict[str, Difference]]
    level: float
    p_adjusted: dict[str, float] = field(default_factory=dict)
    p_of_pair: dict[frozenset[str], float] = field(default_factory=dict)
    p_wins_of_pair: dict[frozenset[str], float] = field(default_factory=dict)

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
        """Whether the win rate's difference from one half stands after Holm's correction over all pairs and scorers."""
        return self.p_wins_of_pair[frozenset((label, other))] < self.level

    def verdict(self, label: str) -> str:
        """Better or worse than the base where the difference stands after Holm's correction, else same."""
        if self.p_adjusted.get(label, 1.0) >= self.level:
            return "same"
        return "better" if (self.difference[label].value > 0) == self.higher_is_better else "worse"


@dataclass(frozen=True)
class Comparison:
    """A base, the methods that started from it, and what was measured."""

    base: Method
    methods: list[Method]
    scores: list[ScoreSummary]
    confidence: float
    bootstrap_samples: int
    seed: int

    @cached_property
    def names(self) -> dict[str, str]:
        """Method label -> what it is called in tables and on the page."""
        return {method.label: method.name for method in self.everyone}

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


def compare_methods(base: Method, methods: list[Method], samples: int, confidence: float, seed: int) -> Comparison:
    """Estimate every score of every method. Raises UserError for bad bootstrap settings or scores."""
    prompts = np.array([row["prompt"] for row in base.runs[0].pictures])
    bootstrap = PairedBootstrap(prompts, samples, confidence, seed)
    scorers = [about for about in base.runs[0].settings["scorers"] if _everyone_has(about["name"], methods)]
    scores = [_summarise(about, bootstrap, base, methods) for about in scorers]
    _correct(scores)
    return Comparison(base, methods, scores, confidence, samples, seed)


def _everyone_has(scorer: str, methods: list[Method]) -> bool:
    """Scorers that only some were judged by are left out of the comparison."""
    return all(scorer in run.pictures[0] for method in methods for run in method.runs)


def _summarise(about: dict, bootstrap: PairedBootstrap, base: Method, methods: list[Method]) -> ScoreSummary:
    values = {method.label: method.scores(about["name"]) for method in [base, *methods]}
    return ScoreSummary(
        about,
        base.label,
        mean={label: bootstrap.mean(own) for label, own in values.items()},
        median={label: float(np.median(own.values)) for label, own in values.items()},
        against={
            label: {
                other: compare(bootstrap, own, theirs, about["higher_is_better"])
                for other, theirs in values.items()
                if other != label
            }
            for label, own in values.items()
        },
        level=1 - bootstrap.confidence,
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
