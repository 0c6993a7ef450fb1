"""summary.csv, a row for each method, for programs."""

from __future__ import annotations

import csv
import io

from mapolab.evaluation.statistics import Estimate
from mapolab.report.costs import COSTS, cost
from mapolab.report.runs import Method
from mapolab.report.summary import Comparison, ScoreSummary


def summary_csv(comparison: Comparison) -> str:
    """One row a method, the base first; `<scorer>/...` columns, each estimate with its _low and _high."""
    rows = [_csv_row(comparison, method) for method in comparison.everyone]
    columns = list(dict.fromkeys(column for row in rows for column in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _csv_row(comparison: Comparison, method: Method) -> dict[str, object]:
    label, base = method.label, comparison.base.label
    row: dict[str, object] = {
        "method": label,
        "seeds": " ".join(str(seed) for seed in method.seeds if seed is not None),
    }
    for score in comparison.scores:
        row |= _csv_estimate(f"{score.name}/mean", score.mean[label])
        row[f"{score.name}/median"] = f"{score.median[label]:.6g}"
        if label != base:
            row |= _csv_against_base(score, label)
        for other, rate in score.win_rate[label].items():
            row |= _csv_estimate(f"{score.name}/win_rate_against_{other}", rate)
    for field in COSTS:
        value = cost(method, field)
        row[field] = "" if value is None else f"{value:.6g}"
    return row


def _csv_against_base(score: ScoreSummary, label: str) -> dict[str, object]:
    found = score.against[label][score.base]
    row: dict[str, object] = _csv_estimate(f"{score.name}/difference_from_base", found.mean)
    row |= _csv_estimate(f"{score.name}/median_difference_from_base", found.median)
    for name in ("wins", "ties", "losses", "effect_size", "p_value"):
        row[f"{score.name}/{name}_against_base"] = f"{getattr(found, name):.6g}"
    row[f"{score.name}/p_adjusted_against_base"] = f"{score.p_adjusted[label]:.6g}"
    row[f"{score.name}/prompts_needed"] = found.prompts_needed if found.prompts_needed is not None else ""
    row[f"{score.name}/verdict_against_base"] = score.verdict(label)
    return row


def _csv_estimate(column: str, estimate: Estimate) -> dict[str, str]:
    values = {"": estimate.value, "_low": estimate.low, "_high": estimate.high}
    return {column + ending: f"{value:.6g}" for ending, value in values.items()}
