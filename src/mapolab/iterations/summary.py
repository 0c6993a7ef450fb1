"""How the rounds went: iterations.csv, summary.json and a table."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from typing_extensions import TypedDict

from mapolab.files import write_csv, write_json
from mapolab.iterations.rounds import Round
from mapolab.reading import read_object
from mapolab.texts import rich_text

Row = dict[str, Any]


ANEW = "Remove {}, and the same command makes it anew."


class Counts(TypedDict):
    pairs: int
    ties: int


class Means(TypedDict):
    all: float
    chosen: float
    rejected: float


class PairsManifest(TypedDict):
    """What the summary takes of a finished folder of pairs."""

    counts: Counts
    means: dict[str, Means]


def rows_of(rounds: Sequence[Round]) -> list[Row]:
    """A row a round, and before them one of the start where it was evaluated.

    pairs, ties: those made. <scorer>_drawn: mean score of all that the round's starting model drew; _chosen, _rejected:
    of those in its pairs. evaluation_<scorer>: of the model that the round ended with, on evaluation.prompts.
    """
    rows: list[Row] = []
    for one in rounds:
        manifest = read_object(one.path / "pairs" / "manifest.json", PairsManifest, ANEW.format(one.path / "pairs"))
        file = one.path / "evaluation.json"
        means = read_object(file, dict[str, dict[str, float]], ANEW.format(file)) if one.evaluated else {}
        if "start" in means:
            rows.append({"round": 0} | _evaluated(means["start"]))
        row = {"round": one.number, "pairs": manifest["counts"]["pairs"], "ties": manifest["counts"]["ties"]}
        for scorer, mean in manifest["means"].items():
            row |= {f"{scorer}_{name}": mean[key] for name, key in DRAWN.items()}
        rows.append(row | _evaluated(means.get("trained", {})))
    return rows


DRAWN = {"drawn": "all", "chosen": "chosen", "rejected": "rejected"}


def write_summary(folder: Path, rows: Sequence[Row]) -> None:
    """iterations.csv and summary.json."""
    columns = _columns(rows)
    lines = [[_number(row.get(column, ""), ".9g") for column in columns] for row in rows]
    write_csv(folder / "iterations.csv", [columns, *lines])
    write_json(folder / "summary.json", {"rounds": list(rows)})


def print_summary(rows: Sequence[Row]) -> None:
    """In the terminal: figures down, rounds across."""
    names = [f"round {row['round']}" if row["round"] else "start" for row in rows]
    table = Table("mean scores", *names)
    for column in _columns(rows)[1:]:
        table.add_row(rich_text(column.replace("_", " ")), *(_number(row.get(column, ""), ".3f") for row in rows))
    Console().print(table)


def _evaluated(means: dict[str, float]) -> Row:
    return {f"evaluation_{scorer}": mean for scorer, mean in means.items()}


def _columns(rows: Sequence[Row]) -> list[str]:
    """Of the fullest row first, so that the start's do not come before those of a round."""
    return list(dict.fromkeys(key for row in sorted(rows, key=len, reverse=True) for key in row))


def _number(value: Any, form: str) -> str:
    return format(value, form) if isinstance(value, float) else str(value)
