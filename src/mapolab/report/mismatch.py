"""Reference mismatch as `mapolab mismatch` measured it, and what methods gained at it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mapolab.errors import UserError
from mapolab.evaluation.intervals import Estimate
from mapolab.files import read_json
from mapolab.report.summary import Comparison


@dataclass(frozen=True)
class Mismatch:
    """One base and one data set. gains: over the base by the first scorer, by method name; up is better."""

    distance: float
    features: str
    gains: dict[str, Estimate]

    def about(self) -> dict[str, Any]:
        """As it stands in summary.json."""
        gains = {label: [gain.value, gain.low, gain.high] for label, gain in self.gains.items()}
        return {"distance": self.distance, "features": self.features, "gains": gains}


def own_mismatch(comparison: Comparison) -> Mismatch | None:
    """Of this comparison's base and data; None where it was not measured, or there is nothing to set against it."""
    if not comparison.scores:
        return None
    data = {run.manifest.get("data_fingerprint") for method in comparison.methods for run in method.runs}
    folder = comparison.base.runs[0].folder / "mismatch"
    measured = [read_json(file) for file in sorted(folder.glob("*.json"))]
    fitting = [found for found in measured if found["data_fingerprint"] in data and "chosen" in found]
    if not fitting:
        return None
    # The paper's features before others.
    found = min(fitting, key=lambda one: one["features"] != "dinov2")
    score = comparison.scores[0]
    sign = 1 if score.higher_is_better else -1
    gains = {comparison.names[label]: _signed(gain, sign) for label, gain in score.difference.items()}
    return Mismatch(found["chosen"]["distance"], found["features"], gains)


def other_mismatches(folders: list[str], features: str) -> list[Mismatch]:
    """Of the comparisons in these folders. Raises UserError where one has none, or by other features."""
    points = []
    for folder in folders:
        file = Path(folder) / "summary.json"
        found = read_json(file).get("mismatch") if file.is_file() else None
        if found is None:
            raise UserError(
                f"beside={folder} is no comparison with a measured mismatch. Give `mapolab mismatch` for its base and "
                "data, then `mapolab compare` again."
            )
        if found["features"] != features:
            raise UserError(f"{folder} measured mismatch by {found['features']}, this comparison by {features}.")
        gains = {label: Estimate(*gain) for label, gain in found["gains"].items()}
        points.append(Mismatch(found["distance"], found["features"], gains))
    return points


def _signed(estimate: Estimate, sign: int) -> Estimate:
    if sign > 0 or not estimate.known:
        return replace(estimate, value=sign * estimate.value)
    return replace(estimate, value=-estimate.value, low=-estimate.high, high=-estimate.low)
