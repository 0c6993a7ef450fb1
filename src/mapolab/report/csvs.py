"""The tables for programs: summary.csv, a row a method; pairs.csv, a row for every two of them by each scorer; and
scores_long.csv, a row for each score of each picture."""

from __future__ import annotations

from collections.abc import Iterable

from mapolab.evaluation.intervals import Estimate
from mapolab.files import csv_text
from mapolab.report.costs import COSTS, cost
from mapolab.report.methods import setting_text
from mapolab.report.runs import Method
from mapolab.report.summary import Comparison, ScoreSummary

# Settings that have the name of a column of scores_long.csv -> what they are called there.
RENAMED = {"name": "experiment", "base": "base_model"}


def summary_csv(comparison: Comparison) -> str:
    """One row a method, the base first; `<scorer>/...` columns, each estimate with its _low and _high. Cells are empty
    where nothing can be told; pairs.csv has the reason."""
    return _csv([_csv_row(comparison, method) for method in comparison.everyone])


def pairs_csv(comparison: Comparison) -> str:
    """Each method against each other one, once, the later against the earlier; `better` is the direction of the scorer.

    p_adjusted and p_adjusted_wins are corrected by Holm over this whole file; the base's row in summary.csv, over the
    differences from the base.
    """
    return _csv([_pair_row(score, *pair) for score in comparison.scores for pair in score.pairs])


def scores_csv(comparison: Comparison) -> str:
    """A row for each run, picture and scorer, with the settings in which methods differ, by their keys."""
    keys = differing_settings(comparison.methods)
    columns = ["method", "name", "objective", "seed", "run", "prompt_index", "prompt", "category", "cluster"]
    columns += ["image_seed", "image", "scorer", "value", *(RENAMED.get(key, key) for key in keys)]
    rows = (row for method in comparison.everyone for row in _score_rows(comparison, method, keys))
    return csv_text([columns, *rows])


def differing_settings(methods: list[Method]) -> list[str]:
    """The dotted keys of settings in which two trained methods differ, one that some do not have among them."""
    trained = [method for method in methods if method.trained]
    keys = dict.fromkeys(key for method in trained for key in method.settings)
    return [key for key in keys if len({setting_text(method.settings.get(key)) for method in trained}) > 1]


def _score_rows(comparison: Comparison, method: Method, keys: list[str]) -> Iterable[list[object]]:
    settings = [setting_text(method.settings[key]) if key in method.settings else "" for key in keys]
    for run in method.runs:
        objective = run.manifest["objective"]["name"] if run.config else ""
        own = [method.label, method.name, objective, "" if run.seed is None else run.seed, run.folder.as_posix()]
        scores = {score.name: run.scores(score.name) for score in comparison.scores}
        for index, picture in enumerate(run.pictures):
            drawn = [picture[key] for key in ("index", "prompt", "category", "cluster", "seed")]
            image = (run.evaluation / picture["image"]).as_posix()
            for scorer, values in scores.items():
                yield [*own, *drawn, image, scorer, f"{values[index]:.9g}", *settings]


def _pair_row(score: ScoreSummary, label: str, other: str) -> dict[str, object]:
    found, pair = score.against[label][other], frozenset((label, other))
    row: dict[str, object] = {"method": label, "other": other, "scorer": score.name}
    row["better"] = "higher" if score.higher_is_better else "lower"
    row |= _csv_estimate("mean_difference", found.mean) | _csv_estimate("median_difference", found.median)
    row |= _csv_estimate("win_rate", found.win_rate)
    for name in ("wins", "ties", "losses", "effect_size", "p_value", "p_value_wins"):
        row[name] = _figure(getattr(found, name))
    row["p_adjusted"], row["p_adjusted_wins"] = _figure(score.p_of_pair[pair]), _figure(score.p_wins_of_pair[pair])
    row["prompts"], row["clusters"] = found.prompts, found.clusters
    row["detectable_difference"] = _figure(found.detectable)
    row["prompts_needed"], row["clusters_needed"] = _figure(found.prompts_needed), _figure(found.clusters_needed)
    row["unknown_because"] = found.why or ""
    return row


def _csv(rows: list[dict[str, object]]) -> str:
    """Empty cells where a row lacks a column of another."""
    columns = list(dict.fromkeys(column for row in sorted(rows, key=len, reverse=True) for column in row))
    return csv_text([columns, *([row.get(column, "") for column in columns] for row in rows)])


def _csv_row(comparison: Comparison, method: Method) -> dict[str, object]:
    label = method.label
    row: dict[str, object] = {
        "method": label,
        "name": method.name,
        "seeds": " ".join(str(seed) for seed in method.seeds if seed is not None),
        "prompts": comparison.prompts,
        "clusters": comparison.clusters,
    }
    for score in comparison.scores:
        row |= _csv_estimate(f"{score.name}/mean", score.mean[label])
        row[f"{score.name}/median"] = _figure(score.median[label])
        if label != comparison.base.label:
            row |= _csv_against_base(score, label)
    for field in COSTS:
        row[field] = _figure(cost(method, field))
    return row


def _csv_against_base(score: ScoreSummary, label: str) -> dict[str, object]:
    found = score.against[label][score.base]
    row: dict[str, object] = _csv_estimate(f"{score.name}/difference_from_base", found.mean)
    row |= _csv_estimate(f"{score.name}/median_difference_from_base", found.median)
    row |= _csv_estimate(f"{score.name}/win_rate_against_base", found.win_rate)
    for name in ("wins", "ties", "losses", "effect_size", "p_value"):
        row[f"{score.name}/{name}_against_base"] = _figure(getattr(found, name))
    row[f"{score.name}/p_adjusted_against_base"] = _figure(score.p_adjusted[label])
    row[f"{score.name}/detectable_difference"] = _figure(found.detectable)
    row[f"{score.name}/prompts_needed"] = _figure(found.prompts_needed)
    row[f"{score.name}/verdict_against_base"] = score.verdict(label)
    return row


def _csv_estimate(column: str, estimate: Estimate) -> dict[str, str]:
    values = {"": estimate.value, "_low": estimate.low, "_high": estimate.high}
    return {column + ending: _figure(value) for ending, value in values.items()}


def _figure(value: float | None) -> str:
    """Six digits, a count in full; nothing for what is not known."""
    return "" if value is None else str(value) if isinstance(value, int) else f"{value:.6g}"
