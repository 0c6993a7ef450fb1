"""The picture wall: prompts down, runs across, every picture of a row drawn from the same noise."""

from __future__ import annotations

import base64
import hashlib
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mapolab.errors import UserError
from mapolab.report.runs import Run
from mapolab.report.summary import Comparison

FIRST_ROWS = 24
"""Prompts that the wall shows at once; the others wait behind a button."""
PICTURE_BUDGET = 13_000_000
"""Characters that the pictures may take, so that the page with everything else stays below 15 MB."""
SMALL = 128
"""Up to this width a picture is shown pixel for pixel; a larger one is reduced to `THUMBNAIL`."""
THUMBNAIL = 320


@dataclass(frozen=True)
class WallPicture:
    """source: a data: URL. uid: names the file's content. file: where it lies, below the comparison's runs."""

    source: str
    uid: str
    file: str


@dataclass(frozen=True)
class WallRow:
    """spread: scorer -> how far the methods' scores of this prompt lie apart, in spreads of all prompts."""

    index: int
    prompt: str
    seed: str
    pictures: list[WallPicture]
    spread: dict[str, float]


@dataclass(frozen=True)
class Wall:
    """rows: in the order drawn, as many as fit; the first `FIRST_ROWS` of `shown` are seen at once; total: how many
    were drawn; pixelated: small."""

    rows: list[WallRow]
    total: int
    pixelated: bool


def build_wall(comparison: Comparison) -> Wall:
    """Embed the pictures of evenly chosen prompts, within the budget. Raises UserError for a missing picture."""
    runs = [run for method in comparison.everyone for run in method.runs]
    total = len(comparison.base.runs[0].pictures)
    spreads = disagreement(comparison)
    spent = 0
    rows: dict[int, WallRow] = {}
    first = evenly(total, FIRST_ROWS)
    for index in [*first, *(index for index in range(total) if index not in {*first})]:
        row = _row(runs, index, {name: float(spread[index]) for name, spread in spreads.items()})
        spent += sum(len(picture.source) for picture in row.pictures)
        if spent > PICTURE_BUDGET and rows:
            break
        rows[index] = row
    with Image.open(picture_file(runs[0], 0)) as picture:
        pixelated = picture.width <= SMALL
    return Wall([row for _, row in sorted(rows.items())], total, pixelated)


def disagreement(comparison: Comparison) -> dict[str, np.ndarray]:
    """Scorer -> (pictures,): the largest minus the smallest of the methods' scores, in their usual spread."""
    found = {}
    for score in comparison.scores:
        table = np.stack([method.scores(score.name).values.mean(0) for method in comparison.everyone])
        apart = table.max(0) - table.min(0)
        found[score.name] = np.round(apart / (table.std() or 1.0), 3)
    return found


def evenly(total: int, count: int) -> list[int]:
    """At most `count` indices spread over 0..total-1, first and last among them."""
    return sorted({round(position) for position in np.linspace(0, total - 1, min(count, total))})


def picture_file(run: Run, index: int) -> Path:
    """The index-th picture's file. Raises UserError where it is missing."""
    file = run.evaluation / run.pictures[index]["image"]
    if not file.is_file():
        raise UserError(
            f"The picture {file} is missing. Give the `mapolab evaluate` command of {run.folder} again, which puts it "
            "back."
        )
    return file


def _row(runs: list[Run], index: int, spread: dict[str, float]) -> WallRow:
    drawn: dict[str, Any] = runs[0].pictures[index]
    return WallRow(index, drawn["prompt"], drawn["seed"], [_picture(run, index) for run in runs], spread)


def _picture(run: Run, index: int) -> WallPicture:
    file = picture_file(run, index)
    name = f"{run.folder.resolve().name}/{file.relative_to(run.folder).as_posix()}"
    return WallPicture(embed(file), hashlib.sha256(file.read_bytes()).hexdigest()[:32], name)


def embed(file: Path) -> str:
    """A picture as a data: URL without the settings that its file carries: PNG, or JPEG where it had to be reduced.

    Raises UserError for a broken file.
    """
    try:
        with Image.open(file) as picture:
            picture = picture.convert("RGB")
    except (OSError, SyntaxError) as error:
        raise UserError(
            f"The picture {file} is broken ({type(error).__name__}). Give its `mapolab evaluate` command again, which "
            "draws it again."
        ) from None
    buffer = io.BytesIO()
    if picture.width <= SMALL:
        picture.save(buffer, "PNG", optimize=True)
        kind = "png"
    else:
        picture.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS)
        picture.save(buffer, "JPEG", quality=86)
        kind = "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"
