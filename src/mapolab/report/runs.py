"""What the report reads of a run, and which runs are one method."""

from __future__ import annotations

import csv
import math
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from mapolab.config.identity import identity
from mapolab.errors import UserError
from mapolab.evaluation.scores_table import Picture, ScoresTable, read_scores
from mapolab.evaluation.statistics import MethodScores
from mapolab.files import read_json, short_hash


@dataclass(frozen=True)
class Run:
    """A finished run with one of its evaluations.

    evaluation: the folder <run>/evaluation/<hash> with settings.json, scores.csv and images/.
    """

    folder: Path
    evaluation: Path
    manifest: dict[str, Any]

    @property
    def label(self) -> str:
        return self.manifest["label"]

    @property
    def seed(self) -> int | None:
        """The training seed; None for the base model."""
        return self.manifest["seed"]

    @cached_property
    def settings(self) -> dict[str, Any]:
        """How the pictures were drawn and scored."""
        return read_json(self.evaluation / "settings.json")

    @cached_property
    def config(self) -> dict[str, Any]:
        """The resolved config that trained the run; empty for the base model."""
        file = self.folder / "config.yaml"
        return yaml.safe_load(file.read_text(encoding="utf-8")) if file.exists() else {}

    @cached_property
    def table(self) -> ScoresTable:
        """scores.csv in the order of its rows. Raises UserError as `read_scores`."""
        return read_scores(self.evaluation)

    @cached_property
    def pictures(self) -> list[Picture]:
        """What was drawn, in the order of (prompt index, seed)."""
        return [self.table.pictures[row] for row in self._order]

    @cached_property
    def _order(self) -> list[int]:
        """The rows of `table` in the order of `pictures`."""
        rows = self.table.pictures
        return sorted(range(len(rows)), key=lambda row: (rows[row]["index"], rows[row]["seed"]))

    @cached_property
    def metrics(self) -> dict[str, np.ndarray]:
        """The columns of metrics.csv, each (steps,), NaN where the method has no such quantity; none for the base."""
        file = self.folder / "metrics.csv"
        rows = read_rows(file) if file.exists() else []
        return {name: np.array([float(row[name] or math.nan) for row in rows]) for name in (rows[0] if rows else {})}

    def scores(self, scorer: str) -> np.ndarray:
        """(pictures,) in the order of `pictures`. Raises UserError for a score that is missing or no finite number."""
        return self.table.values(scorer)[self._order]


@dataclass(frozen=True)
class Method:
    """Runs that differ in nothing but the training seed, in the order of their seeds."""

    label: str
    runs: tuple[Run, ...]

    @property
    def trained(self) -> bool:
        """Whether these are runs of ours, and no base or other model."""
        return any(run.config for run in self.runs)

    @property
    def seeds(self) -> tuple[int | None, ...]:
        return tuple(run.seed for run in self.runs)

    def scores(self, scorer: str) -> MethodScores:
        return MethodScores(np.stack([run.scores(scorer) for run in self.runs]), self.seeds)


def read_rows(file: Path) -> list[dict[str, str]]:
    """The rows of a CSV file by column name."""
    with open(file, encoding="utf-8", newline="") as lines:
        return list(csv.DictReader(lines))


def group_runs(runs: list[Run]) -> list[Method]:
    """One method for all runs with the same label and settings, in the order of their first run.

    Runs of one label that differ in other settings (a learning rate) stay apart, and those settings join their labels.
    Raises UserError for two runs that are the same method with the same seed.
    """
    groups: dict[tuple[str, str], list[Run]] = {}
    for run in runs:
        groups.setdefault((run.label, short_hash(_settings_but_seed(run))), []).append(run)
    firsts = [group[0] for group in groups.values()]
    return [Method(_full_label(group[0], firsts), _by_seed(group)) for group in groups.values()]


def _full_label(run: Run, firsts: list[Run]) -> str:
    """The run's label and, where another method has the same one, the settings that tell them apart."""
    own = _settings_but_seed(run)
    namesakes = [_settings_but_seed(other) for other in firsts if other.label == run.label]
    differing = [key for key in own if any(other.get(key) != own[key] for other in namesakes)]
    return " ".join([run.label, *(words for key in differing if (words := _in_words(key, own[key])))])


def _in_words(key: str, value: Any) -> str:
    """A setting in a label: `lr=0.0001`; the swapped-label control by its name, labels as they are by no word."""
    if key == "data.label_flip_probability":
        return {0: "", 1: "swapped labels"}.get(value, f"{value:.0%} of labels flipped")
    return f"{key.split('.')[-1]}={value}"


def _by_seed(group: list[Run]) -> tuple[Run, ...]:
    ordered = sorted(group, key=lambda run: run.seed or 0)
    for run, following in pairwise(ordered):
        if run.seed == following.seed:
            raise UserError(
                f"{run.folder} and {following.folder} are the same method with the same seed, so that one would count "
                "twice. Name only one of them in runs=."
            )
    return tuple(ordered)


def _settings_but_seed(run: Run) -> dict[str, Any]:
    """What decides a run's weights, beside its seed, as one flat dict."""
    settings = flatten(identity(run.config)) if run.config else {}
    settings.pop("seed", None)
    return settings


def flatten(nested: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} -> {"a.b": 1}"""
    flat: dict[str, Any] = {}
    for key, value in nested.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat
