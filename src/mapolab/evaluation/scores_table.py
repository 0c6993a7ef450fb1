"""scores.csv of an evaluation: its one writer and its one reader.

Columns: index, prompt, seed, image; category and cluster where the prompts have them; then numbers, a column a scorer.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TypedDict

import numpy as np

from mapolab import files
from mapolab.errors import UserError
from mapolab.evaluation.saved import TableSettings, evaluate_again, read_settings
from mapolab.reading import NUMBER, read_cells

FILE = "scores.csv"
REQUIRED, OPTIONAL = ("index", "prompt", "seed", "image"), ("category", "cluster")
OWN = (*REQUIRED, *OPTIONAL)
"""Columns that no scorer may be called."""


class Picture(TypedDict):
    """What a row says of its picture, beside the scores.

    index: of the prompt, from 0. image: the file, from the evaluation's folder. category, cluster: "" where the table
    has none.
    """

    index: int
    prompt: str
    seed: int
    image: str
    category: str
    cluster: str


def write_scores(folder: Path, pictures: Sequence[Picture], scores: Mapping[str, Sequence[float]]) -> None:
    """Write scores.csv. scores: scorer -> (pictures,), in 9 digits; every text is read again as it is."""
    files.write_text(folder / FILE, scores_text(pictures, scores))


def scores_text(pictures: Sequence[Picture], scores: Mapping[str, Sequence[float]]) -> str:
    """What `write_scores` writes."""
    own = [*REQUIRED, *(name for name in OPTIONAL if any(picture[name] for picture in pictures))]
    lines = [[*own, *scores]]
    for number, picture in enumerate(pictures):
        values = [f"{column[number]:.9g}" for column in scores.values()]
        lines.append([*(picture[name] for name in own), *values])
    return files.csv_text(lines)


@dataclass(frozen=True)
class ScoresTable:
    """The table of an evaluation's folder. What is asked of it raises UserError where a cell does not hold that."""

    file: Path
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    lines: tuple[int, ...]
    """Where each row begins in the file, from 1."""

    @property
    def scorers(self) -> tuple[str, ...]:
        """The scorers' columns in order."""
        return tuple(name for name in self.header if name not in OWN)

    @cached_property
    def pictures(self) -> tuple[Picture, ...]:
        """What was drawn, in the order of the rows."""
        columns = {name: self.header.index(name) for name in OWN if name in self.header}
        if missing := [name for name in REQUIRED if name not in columns]:
            raise _broken(self.file, f"has no column {', '.join(missing)}")
        found = []
        for row, line in zip(self.rows, self.lines, strict=True):
            cells = {name: row[column] for name, column in columns.items()}
            numbers = {name: self._integer(cells[name], name, line) for name in ("index", "seed")}
            found.append(Picture(**(dict.fromkeys(OPTIONAL, "") | cells | numbers)))
        return tuple(found)

    def values(self, scorer: str) -> np.ndarray:
        """(pictures,) in the order of the rows, all finite."""
        if scorer not in self.scorers:
            raise _broken(self.file, f"has no scores of {scorer}")
        column = self.header.index(scorer)
        cells = [row[column] for row in self.rows]
        return np.array([self._number(cell, scorer, line) for cell, line in zip(cells, self.lines, strict=True)])

    def means(self) -> dict[str, float]:
        """By scorer."""
        return {scorer: sum(self.values(scorer).tolist()) / len(self.rows) for scorer in self.scorers}

    def _integer(self, cell: str, column: str, line: int) -> int:
        if not cell.isascii() or not cell.removeprefix("-").isdigit() or len(cell) > 20:
            raise _broken(self.file, f"has {cell!r:.60} in line {line}, column {column}, which is no whole number")
        return int(cell)

    def _number(self, cell: str, column: str, line: int) -> float:
        value = float(cell) if NUMBER.fullmatch(cell) else math.nan
        if not math.isfinite(value):
            raise _broken(self.file, f"has {cell!r:.60} in line {line}, column {column}, which is no finite number")
        return value


def read_scores(folder: Path) -> ScoresTable:
    """The table in an evaluation's folder, as this or an earlier version wrote it.

    Raises UserError for a file that is missing, cut off, changed or no such table, and for one in which a scorer is
    called like a column of ours, which earlier versions let pass.
    """
    file = folder / FILE
    header, rows, lines = read_cells(file, evaluate_again(folder))
    if not rows:
        raise _broken(file, "has no row")
    table = ScoresTable(file, header, tuple(rows), tuple(lines))
    if (folder / "settings.json").exists():
        _check_with_settings(table, read_settings(folder, TableSettings))
    return table


def _check_with_settings(table: ScoresTable, settings: TableSettings) -> None:
    """settings.json beside the table knows how many rows there must be, of which prompts and seeds, and the scorers."""
    file, rows = table.file, len(table.rows)
    if taken := next((scorer["name"] for scorer in settings["scorers"] if scorer["name"] in OWN), None):
        raise _broken(file, f"has a scorer called {taken}, which is a column of the table itself: rename that scorer")
    expected = settings.get("prompt_count", 0) * settings.get("images_per_prompt", 1)
    if rows < expected:
        raise _broken(file, f"has {rows} rows of {expected}")
    if len({(picture["index"], picture["seed"]) for picture in table.pictures}) < rows:
        raise _broken(file, "has two rows of one prompt and seed")
    noted = settings.get("checksums", {}).get(FILE)
    if noted is not None and files.sha256(file) != noted:
        raise _broken(file, "was changed since it was written: its scores are not those that were measured")


def _broken(file: Path, reason: str) -> UserError:
    return UserError(f"{file} {reason}. {evaluate_again(file.parent)}")
