"""docs/study: what the study's runs scored and cost, kept with the project, and their pictures."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw

from mapolab import files
from mapolab.pictures import load_picture
from mapolab.report.collect import collect
from mapolab.report.costs import COST_HEADERS, COSTS, cost_cell
from mapolab.report.names import METHOD_NAMES
from study_plan import MISMATCHES, OBJECTIVES, SEEDS, STUDY

DOCS = Path("docs")
FOLDER = DOCS / "study"
SCORERS = ("style", "concept", "background", "pixel_distance")
PICTURED = (0, 40, 80)
"""Test captions in the pictures."""


def keep_scores() -> None:
    """docs/study/<mismatch>.csv and the pictures, from the final runs in outputs/study."""
    for mismatch in MISMATCHES:
        base, methods = collect([str(STUDY / mismatch / "runs" / f"{name}-seed{seed}") for name, seed in _runs()])
        runs = {"base": base.runs[0]} | {
            f"{method.label.split()[0]}-seed{run.seed}": run for method in methods for run in method.runs
        }
        rows = []
        for name, run in runs.items():
            values = zip(*(run.scores(scorer) for scorer in SCORERS), strict=True)
            for row, own in zip(run.pictures, values, strict=True):
                scores = {scorer: f"{value:.5g}" for scorer, value in zip(SCORERS, own, strict=True)}
                rows.append({"run": name, "prompt": row["prompt"]} | scores)
        _write(FOLDER / f"{mismatch}.csv", rows)
    draw_pictures()


def keep_costs() -> None:
    """docs/study/cost.csv, of the largest mismatch's runs; those of the others are as long."""
    _, methods = collect([str(STUDY / list(MISMATCHES)[-1] / "runs" / f"{name}-seed{seed}") for name, seed in _runs()])
    rows = [
        {"method": method.label.split()[0]} | {COST_HEADERS[field]: cost_cell(method, field) for field in COSTS}
        for method in methods
    ]
    _write(FOLDER / "cost.csv", rows)


def keep_search(searched: dict[str, list[tuple[str, float, bool]]]) -> None:
    """docs/study/search.csv. searched: by mismatch each trial, its kept style in validation, whether it is taken."""
    _write(
        FOLDER / "search.csv",
        [
            {"mismatch": mismatch, "trial": trial, "kept": f"{kept:.3f}", "taken": "yes" if taken else ""}
            for mismatch, trials in searched.items()
            for trial, kept, taken in trials
        ],
    )


def keep_mismatches() -> None:
    """docs/study/mismatch.csv: how far the base's pictures are from the preferred ones."""
    rows = []
    for mismatch in MISMATCHES:
        base, methods = collect([str(STUDY / mismatch / "runs" / f"{name}-seed{seed}") for name, seed in _runs()])
        data = methods[0].runs[0].manifest["data_fingerprint"][:12]
        [file] = (base.runs[0].folder / "mismatch").glob(f"{data}*-efficientnet_lite0.json")
        found = files.read_json(file)["chosen"]
        row = {
            "mismatch": mismatch,
            "distance": f"{found['distance']:.3f}",
            "frechet": f"{found['frechet_distance']:.0f}",
        }
        rows.append(row)
    _write(FOLDER / "mismatch.csv", rows)


def _runs() -> list[tuple[str, int]]:
    return [(objective, seed) for objective in OBJECTIVES for seed in SEEDS]


def read(file: Path) -> list[dict[str, str]]:
    with open(file, encoding="utf-8", newline="") as lines:
        return list(csv.DictReader(lines))


def _write(file: Path, rows: Sequence[dict[str, str]]) -> None:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    files.write_text(file, text.getvalue())


def draw_pictures() -> None:
    """docs/study.webp: three test captions at each mismatch, the base's picture first, then each method's of seed 0."""
    size, left, top = 96, 92, 22
    names = ["base", *OBJECTIVES]
    sheet = Image.new("RGB", (left + size * len(names), top + size * len(PICTURED) * len(MISMATCHES)), "white")
    pen = ImageDraw.Draw(sheet)
    for column, name in enumerate(names):
        pen.text((left + size * column + 3, 5), METHOD_NAMES[name].partition(" program")[0].replace("(", ""), "black")
    for number, mismatch in enumerate(MISMATCHES):
        base, methods = collect([str(STUDY / mismatch / "runs" / f"{name}-seed{SEEDS[0]}") for name in OBJECTIVES])
        runs = {"base": base.runs[0]} | {method.label.split()[0]: method.runs[0] for method in methods}
        for line, index in enumerate(PICTURED):
            y = top + size * (number * len(PICTURED) + line)
            caption = runs["base"].pictures[index]["prompt"]
            pen.multiline_text((3, y + 8), f"{mismatch}\n\n" + _wrapped(caption), "black")
            for column, name in enumerate(names):
                file = runs[name].evaluation / runs[name].pictures[index]["image"]
                picture = load_picture(file, "Evaluate its run again.")
                sheet.paste(picture.resize((size, size), Image.Resampling.NEAREST), (left + size * column, y))
    sheet.save(DOCS / "study.webp", quality=85)


def _wrapped(text: str) -> str:
    lines = [""]
    for word in text.split():
        if len(lines[-1]) + len(word) > 14:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return "\n".join(lines)
