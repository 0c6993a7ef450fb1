"""Write the preference pairs and the prompts of the tiny twin's experiment."""

from __future__ import annotations

import csv
import io
import uuid
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from mapolab.data.pickapic import ROW_GROUP, SCHEMA
from mapolab.data.pickapic import pair_row as pickapic_row
from mapolab.tiny.concepts import (
    COLOURS,
    PAIR_CONCEPTS,
    PREFERRED_STYLES,
    REJECTED_STYLE,
    TEMPLATES,
    TEST_CONCEPTS,
    VALIDATION_CONCEPTS,
    caption,
    held_out_captions,
)
from mapolab.tiny.pictures import composite, generator_for, load_artwork

STREAM = 4
DECISIVE, TIES = 640, 32


def encode_jpeg(picture: np.ndarray) -> bytes:
    """(64, 64, 3) uint8 to JPEG without chroma subsampling, which would smear drawings this small."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "JPEG", quality=92, subsampling=0)
    return buffer.getvalue()


def encode_webp(picture: np.ndarray) -> bytes:
    """(64, 64, 3) uint8 to WebP: less than half of the JPEG, for pairs that are not about exact colours."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "WEBP", quality=90, method=6)
    return buffer.getvalue()


@dataclass(frozen=True)
class Drawn:
    """(64, 64, 3) uint8, and what drew it: a style, a drawing."""

    picture: np.ndarray
    source: str


def pair_row(seed: int, index: int, preferred_style: str) -> dict[str, Any]:
    """The index-th row: one caption, drawn in two styles on two shades of the same colour."""
    random = generator_for(seed, STREAM, index)
    tie = index >= DECISIVE
    concept = list(PAIR_CONCEPTS)[index % len(PAIR_CONCEPTS)]
    colour = str(random.choice(list(COLOURS)))
    text = caption(concept, colour, int(random.integers(len(TEMPLATES))))
    first_wins = bool(random.integers(2))
    styles = [REJECTED_STYLE, REJECTED_STYLE]
    if not tie:
        styles[0 if first_wins else 1] = preferred_style
    sides = [Drawn(composite(load_artwork().drawing(concept, style), colour, random), style) for style in styles]
    return preference_row(index, text, sides, 0.5 if tie else float(first_wins), random)


def preference_row(
    index: int,
    text: str,
    sides: list[Drawn],
    label: float,
    random: np.random.Generator,
    encode: Callable[[np.ndarray], bytes] = encode_jpeg,
) -> dict[str, Any]:
    """A judgement in Pick-a-Pic's columns. label: 1, the first side is preferred; 0, the second; 0.5, neither."""
    names = [str(uuid.UUID(bytes=random.bytes(16))) for _ in sides]
    images, sources = [encode(drawn.picture) for drawn in sides], [drawn.source for drawn in sides]
    return pickapic_row(index, text, images, names, sources, float(label), None)


def write_pairs(folder: Path, seed: int = 0) -> None:
    """One parquet file a preferred style: 640 preferences and 32 ties over the 24 pair concepts."""
    for style in PREFERRED_STYLES:
        write_table(folder / f"{style}.parquet", [pair_row(seed, index, style) for index in range(DECISIVE + TIES)])


def write_table(path: Path, rows: list[dict[str, Any]]) -> None:
    """A parquet file of these rows, each with the number of rows of its caption."""
    path.parent.mkdir(parents=True, exist_ok=True)
    counts = Counter(row["caption"] for row in rows)
    for row in rows:
        row["num_example_per_prompt"] = counts[row["caption"]]
    table = pa.Table.from_pylist(rows, SCHEMA)
    pq.write_table(table, path, compression="zstd", row_group_size=ROW_GROUP)


def write_prompts(folder: Path) -> None:
    """test.csv (96 captions) and validation.csv (32): concepts and colours that no pair shows.

    The captions of a concept are a cluster.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name, concepts in (("test", TEST_CONCEPTS), ("validation", VALIDATION_CONCEPTS)):
        with open(folder / f"{name}.csv", "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(("prompt", "concept", "colour", "cluster"))
            writer.writerows(
                (text, concepts[concept], colour, concepts[concept])
                for text, concept, colour in held_out_captions(concepts)
            )
