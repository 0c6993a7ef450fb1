"""docs/study/<task>.csv: what the study's runs scored, a row a picture, kept with the project."""

from __future__ import annotations

import csv
import io
from functools import cached_property
from pathlib import Path

import numpy as np

from mapolab import files
from mapolab.evaluation.statistics import MethodScores, PairedStatistics
from mapolab.tiny.concepts import concept_of
from study_tasks_plan import TASKS, Trial

FOLDER = Path("docs") / "study"
FIGURES = ("wall_seconds", "step_time_seconds", "peak_memory_gib")


class Scores:
    """The kept rows of a task: run, prompt, category, then the scorers' columns; and each run's cost."""

    def __init__(self, task: str) -> None:
        self.task = task
        self.file, self.costs_file = FOLDER / f"{task}.csv", FOLDER / f"{task}-cost.csv"

    @cached_property
    def rows(self) -> dict[str, list[dict[str, str]]]:
        """By run, in the order of the pictures."""
        found: dict[str, list[dict[str, str]]] = {}
        for row in _read(self.file):
            found.setdefault(row["run"], []).append(row)
        return found

    @cached_property
    def costs(self) -> dict[str, dict[str, str]]:
        return {row["run"]: row for row in _read(self.costs_file)}

    def has(self, trial: Trial) -> bool:
        return trial.name in self.rows

    def keep(self, trial: Trial) -> None:
        """Take over a run that has just been judged."""
        done = files.read_json(trial.folder / "run.json")
        scorers = [
            key for key in done["rows"][0] if key not in ("index", "seed", "image", "prompt", "category", "cluster")
        ]
        added = [
            {"run": trial.name, "prompt": row["prompt"], "category": row.get("category", "")}
            | {name: f"{float(row[name]):.5g}" for name in scorers}
            for row in done["rows"]
        ]
        _write(self.file, [row for run in self.rows.values() for row in run] + added)
        if done["figures"]:
            cost = {"run": trial.name} | {name: f"{done['figures'][name]:.4g}" for name in FIGURES}
            _write(self.costs_file, [*self.costs.values(), cost])

    def worth(self, trial: Trial) -> np.ndarray:
        """(pictures,) what the task asks of each, 0..1: the product of the columns that its category is judged by."""
        kept = TASKS[self.task].kept
        return np.array(
            [
                np.prod([float(row[name]) for name in kept[row["category"] if "" not in kept else ""]])
                for row in self.rows[trial.name]
            ]
        )

    def column(self, trial: Trial, name: str, category: str = "") -> np.ndarray:
        rows = [row for row in self.rows[trial.name] if not category or row["category"] == category]
        return np.array([float(row[name]) for row in rows])

    def statistics(self, trial: Trial) -> PairedStatistics:
        """By the concept of each caption; captions of the subject, which is one, by themselves."""
        prompts = [row["prompt"] for row in self.rows[trial.name]]
        return PairedStatistics(np.array(prompts), np.array([concept_of(prompt) or prompt for prompt in prompts]))

    def best(self, trials: list[Trial]) -> Trial | None:
        """The trial with the highest mean worth; None where one of them is still to be done."""
        if not all(self.has(trial) for trial in trials):
            return None
        return max(trials, key=lambda trial: self.worth(trial).mean())

    def method(self, trials: list[Trial]) -> MethodScores:
        """The worth over training seeds."""
        values, seeds = np.stack([self.worth(trial) for trial in trials]), tuple(trial.seed for trial in trials)
        return MethodScores(values, seeds, bounds=(0.0, 1.0))


def _read(file: Path) -> list[dict[str, str]]:
    if not file.is_file():
        return []
    with open(file, encoding="utf-8", newline="") as lines:
        return list(csv.DictReader(lines))


def _write(file: Path, rows: list[dict[str, str]]) -> None:
    text = io.StringIO()
    writer = csv.DictWriter(
        text, list(dict.fromkeys(key for row in rows for key in row)), restval="", lineterminator="\n"
    )
    writer.writeheader()
    writer.writerows(rows)
    files.write_text(file, text.getvalue())
