"""Reference mismatch as `mapolab mismatch` measured it, and what methods gained at it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Required

from annotated_types import Len
from typing_extensions import TypedDict

from mapolab.errors import UserError
from mapolab.evaluation.intervals import Estimate
from mapolab.reading import read_object
from mapolab.report.summary import Comparison


class Distance(TypedDict):
    """Of the base's pictures from those of one side; 0..2."""

    distance: float


class Measured(TypedDict, total=False):
    """What `mapolab mismatch` wrote."""

    features: Required[str]
    data_fingerprint: Required[str]
    chosen: Distance


class Gains(TypedDict, total=False):
    """`Mismatch.about`; an earlier version wrote neither scorer nor labels."""

    distance: Required[float]
    features: Required[str]
    gains: Required[dict[str, Annotated[list[float | None], Len(3, 3)]]]
    scorer: str
    labels: dict[str, str]


class ComparisonSummary(TypedDict, total=False):
    """summary.json of a comparison."""

    mismatch: Gains | None


@dataclass(frozen=True)
class Mismatch:
    """One base and one data set. gains: over the base by `scorer`, by method name, of methods that were trained on that
    data; up is better. labels: method name -> label."""

    distance: float
    features: str
    scorer: str
    gains: dict[str, Estimate]
    labels: dict[str, str]

    def about(self) -> dict[str, Any]:
        """As it stands in summary.json."""
        gains = {name: [gain.value, gain.low, gain.high] for name, gain in self.gains.items()}
        about = {"distance": self.distance, "features": self.features, "scorer": self.scorer}
        return about | {"gains": gains, "labels": self.labels}


def own_mismatch(comparison: Comparison) -> Mismatch | None:
    """Of this comparison's base and data; None where it was not measured, or there is nothing to set against it."""
    if not comparison.scores:
        return None
    data = {
        method.label: {run.manifest.get("data_fingerprint") for run in method.runs} for method in comparison.methods
    }
    folder = comparison.base.runs[0].folder / "mismatch"
    fix = "Remove it, and give `mapolab mismatch` again."
    measured = [read_object(file, Measured, fix) for file in sorted(folder.glob("*.json"))]
    fitting = [found for found in measured if {found["data_fingerprint"]} in data.values() and "chosen" in found]
    if not fitting:
        return None
    # The paper's features before others.
    found = min(fitting, key=lambda one: one["features"] != "dinov2")
    score = comparison.scores[0]
    sign = 1 if score.higher_is_better else -1
    trained = [method for method in comparison.methods if data[method.label] == {found["data_fingerprint"]}]
    return Mismatch(
        found["chosen"]["distance"],
        found["features"],
        score.name,
        {method.name: _signed(score.difference[method.label], sign) for method in trained},
        {method.name: method.label for method in trained},
    )


def other_mismatches(folders: list[str], comparison: Comparison, features: str) -> list[Mismatch]:
    """Of the comparisons in these folders, with their methods under the names that they have in this one. Raises
    UserError where one has none, or by other features or another scorer."""
    points = []
    names = {method.label: method.name for method in comparison.methods}
    scorer = comparison.scores[0].name if comparison.scores else "none"
    for folder in folders:
        file = Path(folder) / "summary.json"
        fix = "Give `mapolab compare` again for that comparison."
        found = read_object(file, ComparisonSummary, fix).get("mismatch") if file.is_file() else None
        if found is None:
            raise UserError(
                f"beside={folder} is no comparison with a measured mismatch. Give `mapolab mismatch` for its base and "
                "data, then `mapolab compare` again."
            )
        if found["features"] != features:
            raise UserError(
                f"{folder} measured mismatch by {found['features']}, this comparison by {features}. Give `mapolab "
                f"mismatch features={features}` for the other's base and data, then `mapolab compare` again for both."
            )
        if found.get("scorer", scorer) != scorer:
            raise UserError(
                f"The gains of {folder} are by {found['scorer']}, those of this comparison by {scorer}. Give one "
                "`mapolab evaluate` with the same scorers in the same order for both, then `mapolab compare` again."
            )
        labels = found.get("labels", {})  # an earlier version kept names alone
        gains = {names.get(labels.get(name, ""), name): Estimate(*gain) for name, gain in found["gains"].items()}
        points.append(Mismatch(found["distance"], found["features"], scorer, gains, labels))
    return points


def _signed(estimate: Estimate, sign: int) -> Estimate:
    if sign > 0 or not estimate.known:
        return replace(estimate, value=sign * estimate.value)
    return replace(estimate, value=-estimate.value, low=-estimate.high, high=-estimate.low)
