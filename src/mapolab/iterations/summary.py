"""How the rounds went: iterations.csv, summary.json and a table."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from mapolab.files import read_json, write_json, write_text
from mapolab.iterations.rounds import Round

Row = dict[str, Any]


def rows_of(rounds: Sequence[Round]) -> list[Row]:
    """A row a round, and before them one of the start where it was evaluated.

    pairs, ties: those made. <scorer>_drawn: mean score of all that the round's starting model drew; _chosen, _rejected:
    of those in its pairs. evaluation_<scorer>: of the model that the round ended with, on evaluation.prompts.
    """
    rows: list[Row] = []
    for one in rounds:
        manifest = read_json(one.path / "pairs" / "manifest.json")
        evaluation = read_json(one.path / "evaluation.json") if one.evaluated else {}
        if "start" in evaluation:
            rows.append({"round": 0} | _evaluated(evaluation["start"]))
        row = {"round": one.number, "pairs": manifest["counts"]["pairs"], "ties": manifest["counts"]["ties"]}
        for scorer, means in manifest["means"].items():
            row |= {f"{scorer}_{name}": means[key] for name, key in DRAWN.items()}
        rows.append(row | _evaluated(evaluation.get("trained", {})))
    return rows


DRAWN = {"drawn": "all", "chosen": "chosen", "rejected": "rejected"}


def write_summary(folder: Path, rows: Sequence[Row]) -> None:
    """iterations.csv and summary.json."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, _columns(rows), restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: _number(value, ".9g") for key, value in row.items()} for row in rows)
    write_text(folder / "iterations.csv", buffer.getvalue())
    write_json(folder / "summary.json", {"rounds": list(rows)})


def print_summary(rows: Sequence[Row]) -> None:
    """In the terminal: figures down, rounds across."""
    names = [f"round {row['round']}" if row["round"] else "start" for row in rows]
    table = Table("mean scores", *names)
    for column in _columns(rows)[1:]:
        table.add_row(column.replace("_", " "), *(_number(row.get(column, ""), ".3f") for row in rows))
    Console().print(table)


def _evaluated(means: dict[str, float]) -> Row:
    return {f"evaluation_{scorer}": mean for scorer, mean in means.items()}


def _columns(rows: Sequence[Row]) -> list[str]:
    """Of the fullest row first, so that the start's do not come before those of a round."""
    return list(dict.fromkeys(key for row in sorted(rows, key=len, reverse=True) for key in row))


def _number(value: Any, form: str) -> str:
    return format(value, form) if isinstance(value, float) else str(value)
