"""Pairs on the disk: parquet files in the columns of Pick-a-Pic v2, and pairs.csv, which tells how each came about."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as parquet

from mapolab import files
from mapolab.data.pickapic import ROW_GROUP, SCHEMA, pair_row
from mapolab.pairs.judging import Pair
from mapolab.pairs.material import Picture

ROWS_PER_PART = 256
TABLE = "pairs.csv"
COLUMNS = SCHEMA.append(pa.field("weight", pa.float64()))


def part_names(pairs: int) -> list[str]:
    """The parquet files of so many pairs. Their names say how many there are, so that a reader notices one that is
    missing."""
    count = -(-pairs // ROWS_PER_PART)
    return [f"train-{number:05d}-of-{count:05d}.parquet" for number in range(count)]


def write_parts(
    folder: Path, pairs: Sequence[Pair], read: Callable[[Picture], bytes], seed: int, share: tuple[int, int]
) -> None:
    """Write this process's share of the files that are not there yet. share: (rank, processes)."""
    examples = Counter(pair.caption for pair in pairs)
    rank, processes = share
    for number, name in list(enumerate(part_names(len(pairs))))[rank::processes]:
        if (folder / name).is_file():
            continue
        start = number * ROWS_PER_PART
        rows = [
            _row(start + offset, pair, read, seed, examples[pair.caption])
            for offset, pair in enumerate(pairs[start : start + ROWS_PER_PART])
        ]
        buffer = io.BytesIO()
        table = pa.Table.from_pylist(rows, COLUMNS)
        parquet.write_table(table, buffer, compression="zstd", row_group_size=ROW_GROUP)
        files.write_bytes(folder / name, buffer.getvalue())


def chosen_side(row: int, pair: Pair, seed: int) -> int:
    """Where the chosen picture stands, 0 or 1: from row to row the other, unless the recipe keeps sides."""
    return (row + seed) % 2 if pair.side is None else pair.side


def _row(row: int, pair: Pair, read: Callable[[Picture], bytes], seed: int, examples: int) -> dict[str, Any]:
    side = chosen_side(row, pair, seed)
    pictures = (pair.chosen, pair.rejected)[:: -1 if side else 1]
    values = pair_row(
        row,
        pair.caption,
        [read(picture) for picture in pictures],
        [picture.uid for picture in pictures],
        [picture.model for picture in pictures],
        1 - pair.label if side else pair.label,
        examples,
    )
    return values | {"weight": pair.weight}


def write_table(folder: Path, pairs: Sequence[Pair], scorers: Sequence[str], seed: int) -> None:
    """pairs.csv: a row a pair, in the order of the parquet rows."""
    sides = ("chosen", "rejected")
    of_a_side = ("uid", "model", "prompt", "seed")
    lines = [
        ["row", "position", "caption", "chosen_side", "preference", "weight"]
        + [f"{side}_{name}" for side in sides for name in of_a_side]
        + [f"{scorer}_{side}" for scorer in scorers for side in sides]
    ]
    for row, pair in enumerate(pairs):
        pictures = [getattr(picture, name) for picture in (pair.chosen, pair.rejected) for name in of_a_side]
        scores = zip(pair.chosen_scores, pair.rejected_scores, strict=True)
        numbers = [f"{value:.9g}" for both in scores for value in both]
        about = [row, pair.position, pair.caption, chosen_side(row, pair, seed)]
        lines.append([*about, f"{pair.label:.9g}", f"{pair.weight:.9g}", *pictures, *numbers])
    files.write_csv(folder / TABLE, lines)
