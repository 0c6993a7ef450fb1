"""What the page tells of where its figures come from: settings, runs and versions."""

from __future__ import annotations

import json
from typing import Any

from mapolab.config.environment_values import for_others
from mapolab.evaluation.intervals import INTERVALS
from mapolab.report.runs import Method, Run, flatten
from mapolab.report.summary import Comparison
from mapolab.report.words import percent


def evaluation_rows(comparison: Comparison) -> list[tuple[str, str]]:
    """The evaluation's settings and what intervals are, as rows."""
    settings = {key: value for key, value in comparison.settings.items() if key not in ("scorers", "checksums")}
    settings = for_others(settings)
    settings["scorers"] = ", ".join(score.name for score in comparison.scores) or "none"
    settings["evaluation"] = comparison.base.runs[0].evaluation.name
    settings["intervals"] = f"{percent(comparison.confidence)} {INTERVALS} over {comparison.over}"
    return [(key.replace("_", " "), _plain(value)) for key, value in settings.items()]


def provenance(comparison: Comparison, method: Method, run: Run) -> dict[str, str]:
    """One row of the table of runs. The folder's name only: where it lies is nobody's business but the user's."""
    manifest = run.manifest
    hardware = manifest.get("hardware") or {}
    cells = {
        "run": run.folder.resolve().name,
        "method": comparison.names[method.label],
        "settings": " ".join(method.words) or None,
        "seed": run.seed,
        "steps": manifest.get("steps"),
        "restarts": manifest.get("restarts"),
        "data": manifest.get("data_fingerprint"),
        "commit": (manifest.get("commit") or "")[:10] or None,
        "hardware": hardware and f"{hardware.get('accelerator')}, {hardware.get('cores')} cores",
        "notes": "; ".join(manifest.get("notes") or []) or None,
        "finished": (manifest.get("finished") or "")[:16].replace("T", " ") or None,
    }
    return {key: _plain(for_others(value, run.config)) for key, value in cells.items()}


def versions(comparison: Comparison) -> list[tuple[str, str]]:
    """Package to its version, or all of them where the runs differ."""
    found: dict[str, dict[str, None]] = {}
    for method in comparison.methods:
        for run in method.runs:
            for package, version in (run.manifest.get("versions") or {}).items():
                found.setdefault(package, {})[_plain(version)] = None
    return [(package, ", ".join(versions)) for package, versions in found.items()]


def _plain(value: Any) -> str:
    if value is None or value == {}:
        return "\N{EN DASH}"
    if isinstance(value, dict):
        return ", ".join(f"{key} {item}" for key, item in flatten(value).items())
    return value if isinstance(value, str) else json.dumps(value)
