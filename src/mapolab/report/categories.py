"""Scores category by category, where the prompts have categories: what is to change and what is to stay, apart."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from mapolab.report.names import scorer_name
from mapolab.report.summary import Comparison, bounded
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
    rows = []
    for category in categories:
        chosen = of_picture == category
        statistics = comparison.statistics(chosen)
        for method in comparison.everyone:
            means = []
            for score in comparison.scores:
                scores = bounded(method, score.about)
                means.append(statistics.mean(replace(scores, values=scores.values[:, chosen])))
            cells = [f"{number(mean.value, DIGITS)} {interval(mean, DIGITS)}" for mean in means]
            rows.append([category, comparison.names[method.label], *cells])
    return ["category", "method", *(scorer_name(score.name) for score in comparison.scores)], rows
