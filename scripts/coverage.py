"""``python scripts/coverage.py``: how often intervals hold the truth, and how often tests find what is there.

Draws studies whose truth is known, and asks mapolab's own statistics. Writes the tables of docs/evaluation.md, in about
five minutes of one core.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mapolab import files
from mapolab.evaluation.differences import clusters_needed, compare, detectable, holm, measurable
from mapolab.evaluation.intervals import Part, Spread
from mapolab.evaluation.statistics import MethodScores, PairedStatistics

DOC = Path("docs") / "evaluation.md"
MARKS = "<!-- coverage: written by `python scripts/coverage.py` -->", "<!-- end of coverage -->"
SIMULATIONS = 1000
SIZES = ((12, 12), (32, 32), (96, 96), (500, 500), (32, 8), (96, 12), (500, 50))  # prompts, clusters
SEEDS = (1, 3, 5)
KINDS = ("normal", "skewed", "floor")
STATISTICS = ("mean", "win rate", "median")
GAIN = 0.2
OF_PROMPTS = 0.5  # standard deviations: of what prompts differ by,
OF_SEEDS = 0.1  # of training seeds,
OF_BOTH = 0.2  # and of a seed on one prompt
OF_CLUSTERS = 0.4  # the clusters' share in the variances of prompts
UNTOUCHED = 0.2  # share of pictures that training leaves as they are, where there is a floor


@dataclass(frozen=True)
class Design:
    """A study of a method with so many training seeds against a base. kind: how differences are distributed, see
    `KINDS`; with a floor, scores end at 0 and 1: a quarter of the base's and half of the method's lie at 1."""

    prompts: int
    clusters: int
    seeds: int
    kind: str

    def statistics(self) -> PairedStatistics:
        return PairedStatistics(np.arange(self.prompts), self._of_prompt())

    def draw(self, random: np.random.Generator, gain: float = GAIN) -> tuple[MethodScores, MethodScores]:
        of_prompt, share = self._of_prompt(), OF_CLUSTERS if self.clusters < self.prompts else 0.0
        return self._draw(random, gain, of_prompt, share)

    def truth(self, random: np.random.Generator) -> dict[str, float]:
        """Of all prompts, over training seeds. A median is of the prompts' means over as many seeds as here."""
        share = OF_CLUSTERS if self.clusters < self.prompts else 0.0
        found = []
        for _ in range(200):
            method, base = self._draw(random, GAIN, np.arange(10_000), share)
            differences = method.values - base.values
            wins = (np.sign(differences) + 1) / 2
            found.append((differences.mean(), wins.mean(), np.median(differences.mean(0))))
        return dict(zip(STATISTICS, np.mean(found, axis=0).tolist(), strict=True))

    def _of_prompt(self) -> np.ndarray:
        return np.arange(self.prompts) * self.clusters // self.prompts

    def _draw(
        self, random: np.random.Generator, gain: float, of_prompt: np.ndarray, share: float
    ) -> tuple[MethodScores, MethodScores]:
        def effect(kind: str = "normal") -> np.ndarray:
            """(prompts,) of mean 0 and variance 1, alike within clusters."""
            single = (lambda size: random.exponential(size=size) - 1) if kind == "skewed" else random.standard_normal
            together = np.sqrt(share) * single(of_prompt[-1] + 1)[of_prompt] if share else 0.0
            return np.sqrt(1 - share) * single(len(of_prompt)) + together

        hard = (0.8 if self.kind == "floor" else 1.0) + 0.3 * effect()
        # With one seed, intervals speak of this training, and so does the truth.
        seeds = (OF_SEEDS if self.seeds > 1 else 0.0) * random.standard_normal((self.seeds, 1))
        seeds = seeds + OF_BOTH * np.stack([effect() for _ in range(self.seeds)])
        values, bounds = hard + gain + OF_PROMPTS * effect(self.kind) + seeds, (-np.inf, np.inf)
        if self.kind == "floor":
            values = np.where(random.random(len(of_prompt)) < UNTOUCHED, hard, values)
            hard, values, bounds = hard.clip(0, 1), values.clip(0, 1), (0.0, 1.0)
        return MethodScores(values, tuple(range(self.seeds)), bounds), MethodScores(hard[None], (None,), bounds)


def coverage(design: Design, simulations: int) -> dict[str, float]:
    """By statistic, the share of studies whose 95% interval holds the truth. None of them may be without one."""
    random = np.random.default_rng([design.prompts, design.clusters, design.seeds, KINDS.index(design.kind)])
    truth, statistics = design.truth(random), design.statistics()
    held = dict.fromkeys(STATISTICS, 0)
    for _ in range(simulations):
        method, base = design.draw(random)
        found = (
            statistics.difference(method, base),
            statistics.win_rate(method, base, True),
            statistics.median_difference(method, base),
        )
        for name, estimate in zip(STATISTICS, found, strict=True):
            held[name] += estimate.known and not estimate.excludes(truth[name])
    return {name: count / simulations for name, count in held.items()}


def false_claims(design: Design, simulations: int, methods: int = 13, scorers: int = 4) -> tuple[float, float]:
    """Of studies in which nothing differs, the share that calls something measurable: by 0.05 alone, and by Holm."""
    random, statistics = np.random.default_rng(17), design.statistics()
    counts = np.zeros(2)
    for _ in range(simulations):
        pairs = [design.draw(random, gain=0.0) for _ in range(methods * scorers)]
        p_values = [statistics.measure_difference(*pair).p_value() for pair in pairs]
        counts += min(p_values) < 0.05, any(measurable(one, 0.05) for one in holm(p_values))
    alone, corrected = counts / simulations
    return float(alone), float(corrected)


def spread(clusters: int, seeds: int, between_seeds: float = OF_SEEDS) -> Spread:
    """The true spread of a difference over prompts that are their own clusters."""
    shared = OF_BOTH**2 / clusters / seeds if seeds > 1 else 0.0
    own = OF_PROMPTS**2 + (0.0 if seeds > 1 else OF_BOTH**2)
    of_seeds = Part(between_seeds**2 / seeds + shared, seeds - 1) if seeds > 1 else Part(0.0, 0)
    return Spread(Part(own / clusters + shared, clusters - 1), of_seeds, shared)


def power(clusters: int, seeds: int, gain: float, simulations: int) -> float:
    """How often a study finds this difference at 0.05. With one seed nothing is said of other seeds."""
    random, statistics = np.random.default_rng([clusters, seeds]), PairedStatistics(np.arange(clusters))
    base, found = MethodScores(np.zeros((1, clusters)), (None,)), 0
    for _ in range(simulations):
        values = gain + OF_PROMPTS * random.standard_normal(clusters)
        values = values + OF_BOTH * random.standard_normal((seeds, clusters))
        if seeds > 1:
            values = values + OF_SEEDS * random.standard_normal((seeds, 1))
        found += statistics.difference(MethodScores(values, tuple(range(seeds))), base).excludes(0)
    return found / simulations


def coverage_table() -> list[str]:
    heads = [f"{seeds} seed{'s' if seeds > 1 else ''}" for seeds in SEEDS]
    lines = [f"| prompts | differences | {' | '.join(heads)} |", "|---|---|" + "---:|" * len(SEEDS)]
    for prompts, clusters in SIZES:
        for kind in KINDS:
            cells = []
            for seeds in SEEDS:
                found = coverage(Design(prompts, clusters, seeds, kind), SIMULATIONS)
                cells.append(" / ".join(f"{100 * found[name]:.1f}" for name in STATISTICS))
            size = f"{prompts}" if clusters == prompts else f"{prompts} in {clusters} clusters"
            lines.append(f"| {size} | {kind} | {' | '.join(cells)} |")
            print(lines[-1], flush=True)
    return lines


def power_table() -> list[str]:
    """The differences that `detectable` and `clusters_needed` speak of, and how often studies find them."""
    lines = [
        "| prompts | seeds | smallest difference | found | prompts needed for 0.25 | found |",
        "|---:|---:|---:|---:|---:|---:|",
    ]
    for clusters in (12, 32, 96):
        for seeds in SEEDS:
            smallest = detectable(spread(clusters, seeds), 0.05)
            needed = clusters_needed(0.25, spread(clusters, seeds), 0.05)
            found = [power(clusters, seeds, smallest, 4 * SIMULATIONS), power(needed, seeds, 0.25, 4 * SIMULATIONS)]
            lines.append(f"| {clusters} | {seeds} | {smallest:.3f} | {found[0]:.0%} | {needed} | {found[1]:.0%} |")
            print(lines[-1], flush=True)
    return lines


def main() -> None:
    covered, powers = coverage_table(), power_table()
    alone, corrected = false_claims(Design(96, 12, 5, "normal"), SIMULATIONS // 2)
    told = (
        f"Of {SIMULATIONS // 2} studies of 13 methods and 4 scorers in which nothing differs (96 prompts in 12 clusters, "
        f"5 seeds), {alone:.0%} have some p below 0.05, and {corrected:.1%} call something measurable."
    )
    print(told)
    before, rest = DOC.read_text(encoding="utf-8").split(MARKS[0])
    parts = [MARKS[0], "\n".join(covered), "\n".join(powers), told, MARKS[1]]
    files.write_text(DOC, before + "\n\n".join(parts) + rest.split(MARKS[1])[1])


if __name__ == "__main__":
    main()
