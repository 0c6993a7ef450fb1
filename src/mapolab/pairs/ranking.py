"""From scores to preferences: pure functions of a few numbers.

n = pictures of one caption, m = scorers. Scores here are "larger is better": those of a scorer for which lower is
better come with their sign turned.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations

from mapolab.data.records import TIE

Scores = Sequence[Sequence[float]]  # [n][m]


def majority(first: Sequence[float], second: Sequence[float]) -> float:
    """Whether most of m scorers prefer the first picture: 1; the second: 0; neither: 0.5.

    A scorer that gives both the same score does not vote.
    """
    votes = sum((mine > other) - (mine < other) for mine, other in zip(first, second, strict=True))
    return 1.0 if votes > 0 else 0.0 if votes < 0 else TIE


def best_against_worst(scores: Scores) -> tuple[int, int, float]:
    """(best, worst, preference): the pictures that win most and fewest of their comparisons by majority.

    This is Copeland's rule; with one scorer, the largest and the smallest score. Where several win as many, the one
    that was drawn first is taken. The preference is 1, or 0.5 where the majority between these two is split, or where
    wins go round in a circle and it is against them.
    """
    points = [sum(majority(one, other) for other in scores) for one in scores]
    order = sorted(range(len(scores)), key=lambda index: (-points[index], index))
    best, worst = order[0], order[-1]
    return best, worst, max(majority(scores[best], scores[worst]), TIE)


def every_pair(scores: Scores) -> list[tuple[int, int, float]]:
    """(better, other, preference) of all n (n - 1) / 2 pairs; a split majority is a tie, preference 0.5."""
    found = []
    for first, second in combinations(range(len(scores)), 2):
        preference = majority(scores[first], scores[second])
        found.append((second, first, 1.0) if preference == 0 else (first, second, preference))
    return found


def soft_label(gap: float, scale: float) -> float:
    """sigmoid(scale * gap): the probability, by Bradley and Terry, that what is better by `gap` is preferred.

    SmPO (2506.02698) takes it from PickScore, whose softmax over two pictures has the scale exp(logit_scale) = 100 on
    the cosine; our PickScore is 100 x cosine, so its scale is 1.
    """
    return 1 / (1 + math.exp(-scale * gap)) if scale * gap > -700 else 0.0


def gap_weights(gaps: Sequence[float]) -> list[float]:
    """Weights in proportion to the gaps, 0 where a gap is negative; their mean is 1. All 1 where no gap is positive."""
    positive = [max(gap, 0.0) for gap in gaps]
    mean = sum(positive) / len(positive) if positive else 0.0
    return [gap / mean for gap in positive] if mean > 0 else [1.0] * len(positive)
