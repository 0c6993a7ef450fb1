"""summary.csv, a row for each method, and pairs.csv, a row for every two of them by each scorer, for programs."""

from __future__ import annotations

import csv
import io

from mapolab.evaluation.intervals import Estimate
from mapolab.report.costs import COSTS, cost
from mapolab.report.runs import Method
from mapolab.report.summary import Comparison, ScoreSummary


def summary_csv(comparison: Comparison) -> str:
    """One row a method, the base first; `<scorer>/...` columns, each estimate with its _low and _high."""
    rows = [_csv_row(comparison, method) for method in comparison.everyone]
    return _csv(rows)


def pairs_csv(comparison: Comparison) -> str:
    """Each method against each other one, once, the later against the earlier; `better` is the direction of the scorer.

    p_adjusted and p_adjusted_wins are corrected by Holm over this whole file; the base's row in summary.csv, over the
    differences from the base alone.
    """
    return _csv([_pair_row(score, *pair) for score in comparison.scores for pair in score.pairs])


def _pair_row(score: ScoreSummary, label: str, other: str) -> dict[str, object]:
    found, pair = score.against[label][other], frozenset((label, other))
    row: dict[str, object] = {"method": label, "other": other, "scorer": score.name}
    row["better"] = "higher" if score.higher_is_better else "lower"
    row |= _csv_estimate("mean_difference", found.mean) | _csv_estimate("median_difference", found.median)
    row |= _csv_estimate("win_rate", found.win_rate)
    for name in ("wins", "ties", "losses", "effect_size", "p_value", "p_value_wins"):
        row[name] = f"{getattr(found, name):.6g}"
    row["p_adjusted"], row["p_adjusted_wins"] = f"{score.p_of_pair[pair]:.6g}", f"{score.p_wins_of_pair[pair]:.6g}"
    row["prompts"] = found.prompts
    row["prompts_needed"] = found.prompts_needed if found.prompts_needed is not None else ""
    return row


def _csv(rows: list[dict[str, object]]) -> str:
    """Empty cells where a row lacks a column of another."""
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
