"""From scores to preferences: pure functions of a few numbers.

n = pictures of one caption, m = scorers. Scores here are "larger is better": those of a scorer for which lower is
better come with their sign turned.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations
from typing import Any

from mapolab.data.records import TIE
from mapolab.errors import UserError

# SmPO's program maps PickScore, a cosine, from this range to 0..1 and takes the softmax of two pictures' values. Our
# PickScore is 100 x that cosine.
SMPO_COSINES = (0.11543526500463486, 0.28201571106910706)
PICKSCORES_A_COSINE = 100
SMPO_SCALE = 1 / (PICKSCORES_A_COSINE * (SMPO_COSINES[1] - SMPO_COSINES[0]))  # 0.0600 for each point of PickScore

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

    The softmax over two pictures' scale * score. PickScore's model itself was trained with scale 1 on 100 x cosine;
    SmPO (2506.02698) takes `SMPO_SCALE`, which is 16.7 times softer.
    """
    return 1 / (1 + math.exp(-scale * gap)) if scale * gap > -700 else 0.0


def label_scale(labels: str, given: Any, ranked_by: Sequence[Any] | None) -> float:
    """The scale of soft labels by the first of `ranked_by`, given as a number above 0 or as `auto`.

    Hard labels have none; for them `auto` is 1, as manifests have it. Raises UserError where the scorer has no
    published one.
    """
    if given != "auto":
        if isinstance(given, bool) or not isinstance(given, int | float) or not 0 < given < math.inf:
            raise UserError(f"label_scale is {given}; give a number above 0, or auto.")
        return float(given)
    if labels == "hard":
        return 1.0
    first = ranked_by[0] if ranked_by else None
    name = first.get("_target_") if isinstance(first, dict) else first
    if name != "pickscore":
        raise UserError(
            f"labels=soft by {name} needs label_scale: a gap of 1 / label_scale is then preferred with probability "
            "0.73. Give a number that fits its scores, such as label_scale=5; only for pickscore is there a published "
            "one, SmPO's."
        )
    return SMPO_SCALE


def gap_weights(gaps: Sequence[float]) -> list[float]:
    """Weights in proportion to the gaps, 0 where a gap is negative; their mean is 1. All 1 where no gap is positive."""
    positive = [max(gap, 0.0) for gap in gaps]
    mean = sum(positive) / len(positive) if positive else 0.0
    return [gap / mean for gap in positive] if mean > 0 else [1.0] * len(positive)
