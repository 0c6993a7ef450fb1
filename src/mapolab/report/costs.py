"""What training cost: time and memory as they were measured, operations as `mapolab plan` counts them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from typing_extensions import TypedDict

from mapolab.errors import UserError
from mapolab.files import short_hash, write_json
from mapolab.reading import read_object
from mapolab.report.runs import Method, Run

# Field of a run's manifest -> what stands for a method of several runs. `teraflops` is counted, not in the manifest.
COSTS = {
    "samples_per_second": np.mean,
    "step_time_seconds": np.mean,
    "peak_memory_gib": np.max,
    "wall_seconds": np.mean,
    "teraflops": np.mean,
}
COST_HEADERS = {
    "samples_per_second": "samples/s",
    "step_time_seconds": "step time",
    "peak_memory_gib": "peak memory",
    "wall_seconds": "training time",
    "teraflops": "operations",
}


class Operations(TypedDict):
    """operations.json: of one optimizer step over all devices, and a hash of what it was counted from."""

    per_step: float | None
    counted_from: str


COUNT_VERSION = 1
"""To be raised where `operations_per_step` counts otherwise."""


def cost(method: Method, field: str) -> float | None:
    """A field of `COSTS` over the method's runs; None for models that were not trained here."""
    values = [_value(run, field) for run in method.runs]
    known = [value for value in values if value is not None]
    return float(COSTS[field](known)) if known else None


def _value(run: Run, field: str) -> float | None:
    return training_teraflops(run) if field == "teraflops" else run.manifest.get(field)


def training_teraflops(run: Run) -> float | None:
    """Operations of the whole training, in 10^12, counted on fake tensors and kept beside the run's config; None where
    they cannot be counted."""
    if not run.config or not run.manifest.get("steps"):
        return None
    kept, counted_from = run.folder / "operations.json", short_hash([COUNT_VERSION, run.config])
    found = _kept(kept)
    if found.get("counted_from") != counted_from:
        found = {"per_step": _operations_per_step(run.config), "counted_from": counted_from}
        if found["per_step"] is not None:  # the model's configs may be at hand another time
            write_json(kept, found)
    return None if found["per_step"] is None else found["per_step"] * run.manifest["steps"] / 1e12


def _kept(file: Path) -> Operations | dict[str, Any]:
    """What was counted before; empty where it cannot be read, so that it is counted again."""
    try:
        return read_object(file, Operations, "")
    except UserError:
        return {}


def _operations_per_step(config: dict[str, Any]) -> float | None:
    """None for a config that this version's plan cannot read, or whose model's configs are not at hand."""
    from mapolab.plan.operations import operations_per_step

    try:
        return operations_per_step(config)
    except (UserError, KeyError, TypeError, ValueError, OSError):
        return None


def duration(seconds: float) -> str:
    """12 s, 3 min 20 s, 5 h 07 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.3g} s"
    return f"{whole // 60} min {whole % 60:02} s" if whole < 3600 else f"{whole // 3600} h {whole % 3600 // 60:02} min"


def cost_cell(method: Method, field: str) -> str:
    """A cost with its unit; a dash where there is none."""
    value = cost(method, field)
    if value is None:
        return "\N{EN DASH}"
    formats = {
        "samples_per_second": lambda: f"{value:.3g}",
        "step_time_seconds": lambda: f"{1000 * value:.0f} ms" if value < 1 else f"{value:.2f} s",
        "peak_memory_gib": lambda: f"{value:.2f} GiB",
        "wall_seconds": lambda: duration(value),
        "teraflops": lambda: f"{value:.3g} TFLOP",
    }
    return formats[field]()
