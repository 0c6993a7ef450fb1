"""The picture wall: prompts down, runs across, every picture of a row drawn from the same noise."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from mapolab.errors import UserError
from mapolab.report.runs import Run
from mapolab.report.summary import Comparison

FIRST_ROWS = 24
"""Prompts that the wall shows at once; the others wait behind a click."""
PICTURE_BUDGET = 4_800_000
"""Characters that the pictures may take, so that the page with everything else stays below 6 MB."""
SMALL = 128
"""Up to this width a picture is shown pixel for pixel; a larger one is reduced to `THUMBNAIL`."""
THUMBNAIL = 224


@dataclass(frozen=True)
class WallRow:
    prompt: str
    pictures: list[str]
    """A data: URL for each run, the base first."""


@dataclass(frozen=True)
class Wall:
    """first: rows shown at once; more: as many of the others as fit; total: how many were drawn; pixelated: small."""

    first: list[WallRow]
    more: list[WallRow]
    total: int
    pixelated: bool


def build_wall(comparison: Comparison) -> Wall:
    """Embed the pictures of evenly chosen prompts, within the budget. Raises UserError for a missing picture."""
    runs = [run for method in comparison.everyone for run in method.runs]
    total = len(comparison.base.runs[0].pictures)
    first = evenly(total, FIRST_ROWS)
    chosen = set(first)
    spent = 0
    rows: dict[int, WallRow] = {}
    for index in [*first, *(index for index in range(total) if index not in chosen)]:
        row = WallRow(runs[0].pictures[index]["prompt"], [embed(picture_file(run, index)) for run in runs])
        spent += sum(map(len, row.pictures))
        if spent > PICTURE_BUDGET and rows:
            break
        rows[index] = row
    with Image.open(picture_file(runs[0], 0)) as picture:
        pixelated = picture.width <= SMALL
    shown = [rows[index] for index in first if index in rows]
    return Wall(shown, [row for index, row in sorted(rows.items()) if index not in chosen], total, pixelated)


def evenly(total: int, count: int) -> list[int]:
    """At most `count` indices spread over 0..total-1, first and last among them."""
    return sorted({round(position) for position in np.linspace(0, total - 1, min(count, total))})


def picture_file(run: Run, index: int) -> Path:
    """The index-th picture's file. Raises UserError where it is missing."""
    file = run.evaluation / run.pictures[index]["image"]
    if not file.is_file():
        raise UserError(
            f"The picture {file} is missing. Remove {run.evaluation / 'scores.csv'} and give "
            f"`mapolab evaluate models={run.folder}` again."
        )
    return file


def embed(file: Path) -> str:
    """A picture as a data: URL without the settings that its file carries: PNG, or JPEG where it had to be reduced."""
    with Image.open(file) as picture:
        picture = picture.convert("RGB")
    buffer = io.BytesIO()
    if picture.width <= SMALL:
        picture.save(buffer, "PNG", optimize=True)
        kind = "png"
    else:
        picture.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS)
        picture.save(buffer, "JPEG", quality=88)
        kind = "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"
