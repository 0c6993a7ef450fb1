"""The picture wall: prompts down, runs across, every picture of a row drawn from the same noise."""

from __future__ import annotations

import base64
import hashlib
import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from mapolab.evaluation.saved import picture_file
from mapolab.pictures import load_picture
from mapolab.report.runs import Method, Run
from mapolab.report.summary import Comparison

FIRST_ROWS = 24
"""Prompts that the wall shows at once; the others wait behind a button."""
MOST_COLUMNS = 16
"""Where there are more runs than this, the wall shows the first training seed of each method."""
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
    """rows: as HTML, in the order drawn, as many as fit; `FIRST_ROWS` of them are seen at once; total: how many were
    drawn; pixelated: small."""

    rows: list[str]
    total: int
    pixelated: bool


def shown_runs(method: Method, comparison: Comparison) -> tuple[Run, ...]:
    """The runs of a method that have a column: all, or the first where they would be too many."""
    columns = sum(len(one.runs) for one in comparison.everyone)
    return method.runs if columns <= MOST_COLUMNS else method.runs[:1]


def build_wall(comparison: Comparison, room: int, as_html: Callable[[WallRow], str]) -> Wall:
    """Embed the pictures of evenly chosen prompts in at most `room` bytes, but always of one prompt.

    Raises UserError for a missing or broken picture.
    """
    runs = [run for method in comparison.everyone for run in shown_runs(method, comparison)]
    total = len(comparison.base.runs[0].pictures)
    spreads = disagreement(comparison)
    rows: dict[int, str] = {}
    first = evenly(total, FIRST_ROWS)
    for index in [*first, *(index for index in range(total) if index not in {*first})]:
        row = as_html(_row(runs, index, {name: float(spread[index]) for name, spread in spreads.items()}))
        room -= len(row.encode())
        if room < 0 and rows:
            break
        rows[index] = row
    return Wall([row for _, row in sorted(rows.items())], total, is_pixelated(comparison))


def is_pixelated(comparison: Comparison) -> bool:
    """Whether pictures are so small that they are shown pixel for pixel."""
    return _opened(_file(comparison.base.runs[0], 0)).width <= SMALL


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


def _file(run: Run, index: int) -> Path:
    return picture_file(run.evaluation, run.pictures[index]["image"])


def _row(runs: list[Run], index: int, spread: dict[str, float]) -> WallRow:
    drawn = runs[0].pictures[index]
    return WallRow(index, drawn["prompt"], str(drawn["seed"]), [_picture(run, index) for run in runs], spread)


def _picture(run: Run, index: int) -> WallPicture:
    file = _file(run, index)
    name = f"{run.folder.resolve().name}/{file.relative_to(run.folder).as_posix()}"
    return WallPicture(embed(file), hashlib.sha256(file.read_bytes()).hexdigest()[:32], name)


def _opened(file: Path) -> Image.Image:
    return load_picture(file, "Give its `mapolab evaluate` command again, which draws it again.")


def embed(file: Path) -> str:
    """A picture as a data: URL without the settings that its file carries: PNG, or JPEG where it had to be reduced.

    Raises UserError for a broken file.
    """
    picture = _opened(file)
    buffer = io.BytesIO()
    if picture.width <= SMALL:
        picture.save(buffer, "PNG", optimize=True)
        kind = "png"
    else:
        picture.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS)
        picture.save(buffer, "JPEG", quality=86)
        kind = "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"
