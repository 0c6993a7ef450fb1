"""What the report reads of a run, and of the runs that are one method."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from mapolab.errors import UserError
from mapolab.evaluation.saved import Settings, read_settings
from mapolab.evaluation.scores_table import Picture, ScoresTable, read_scores
from mapolab.evaluation.statistics import MethodScores
from mapolab.run_files import Manifest, read_config, read_curves


@dataclass(frozen=True)
class Run:
    """A finished run with one of its evaluations.

    evaluation: the folder <run>/evaluation/<hash> with settings.json, scores.csv and images/.
    """

    folder: Path
    evaluation: Path
    manifest: Manifest

    @property
    def label(self) -> str:
        return self.manifest["label"]

    @property
    def seed(self) -> int | None:
        """The training seed; None for the base model."""
        return self.manifest["seed"]

    @cached_property
    def settings(self) -> Settings:
        """How the pictures were drawn and scored."""
        return read_settings(self.evaluation)

    @cached_property
    def config(self) -> dict[str, Any]:
        """The resolved config that trained the run; empty for the base model."""
        return read_config(self.folder) if (self.folder / "config.yaml").exists() else {}

    @cached_property
    def table(self) -> ScoresTable:
        """scores.csv in the order of its rows.

        Raises UserError as `read_scores`, and where a scorer of the settings has no column: it would be left out of the
        comparison without a word.
        """
        table = read_scores(self.evaluation)
        if lacking := [about["name"] for about in self.settings["scorers"] if about["name"] not in table.scorers]:
            raise UserError(
                f"{table.file} has no column of the scorer {lacking[0]}, which the settings beside it name. Give the "
                f"`mapolab evaluate` command of {self.folder} again: it writes both anew."
            )
        return table

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
        """The columns of metrics.csv, each (steps,): NaN where the method has no such quantity, infinite where it was
        not finite; none for the base."""
        columns = read_curves(self.folder, "metrics.csv", self.manifest)
        return {name: np.array(values) for name, values in columns.items()}

    def scores(self, scorer: str) -> np.ndarray:
        """(pictures,) in the order of `pictures`. Raises UserError for a score that is missing or no finite number."""
        return self.table.values(scorer)[self._order]


@dataclass(frozen=True)
class Method:
    """Runs that differ in nothing but the training seed, in the order of their seeds.

    label: names it in files, `mapo beta=8`. name: in tables and on the page, by those settings in which methods of its
    objective differ. words: every setting of the label, such as `beta=8`; shared: those that the name leaves out.
    settings: what decides its runs' weights beside their seeds, by dotted key. No two methods of a comparison have the
    same label or name.
    """

    label: str
    runs: tuple[Run, ...]
    name: str
    words: tuple[str, ...] = ()
    shared: tuple[str, ...] = ()
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def trained(self) -> bool:
        """Whether these are runs of ours, and no base or other model."""
        return any(run.config for run in self.runs)

    @property
    def seeds(self) -> tuple[int | None, ...]:
        return tuple(run.seed for run in self.runs)

    def scores(self, scorer: str) -> MethodScores:
        return MethodScores(np.stack([run.scores(scorer) for run in self.runs]), self.seeds)


def flatten(nested: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} -> {"a.b": 1}"""
    flat: dict[str, Any] = {}
    for key, value in nested.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat
