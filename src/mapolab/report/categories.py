"""Scores category by category, where the prompts have categories: what is to change and what is to stay, apart."""

from __future__ import annotations

import numpy as np

from mapolab.evaluation.statistics import MethodScores, PairedBootstrap
from mapolab.report.names import scorer_name
from mapolab.report.summary import Comparison
from mapolab.report.words import interval, number

DIGITS = 3


def category_table(comparison: Comparison) -> tuple[list[str], list[list[str]]] | None:
    """Header and rows, a row for each category and method: every scorer's mean on that category's prompts, with its
    interval. None where no prompt has a category."""
    pictures = comparison.base.runs[0].pictures
    of_picture = np.array([row["category"] for row in pictures])
    categories = [category for category in dict.fromkeys(of_picture.tolist()) if category]
    if not categories:
        return None
    prompts = np.array([row["prompt"] for row in pictures])
    rows = []
    for category in categories:
        chosen = of_picture == category
        bootstrap = PairedBootstrap(
            prompts[chosen], comparison.bootstrap_samples, comparison.confidence, comparison.seed
        )
        for method in comparison.everyone:
            means = []
            for score in comparison.scores:
                scores = method.scores(score.name)
                means.append(bootstrap.mean(MethodScores(scores.values[:, chosen], scores.seeds)))
            cells = [f"{number(mean.value, DIGITS)} {interval(mean, DIGITS)}" for mean in means]
            rows.append([category, comparison.names[method.label], *cells])
    return ["category", "method", *(scorer_name(score.name) for score in comparison.scores)], rows
