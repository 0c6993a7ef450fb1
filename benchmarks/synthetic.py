"""A data set in Pick-a-Pic v2's columns, as large as wished: `python benchmarks/synthetic.py <folder> <rows>`.

512 px JPEGs of about 75 kB, from a pool of 256 pictures under names of their own; 11% ties; 16 pairs a prompt; row
groups of 100 rows and files of 1,000. The same rows for the same number, and none is written twice.
"""

import argparse
import io
from functools import cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
from PIL import Image

from mapolab.data.pickapic import SCHEMA

POOL, SIDE = 256, 512
ROWS_PER_FILE, ROWS_PER_GROUP, PAIRS_PER_PROMPT = 1000, 100, 16
TIES = 0.11


@cache
def picture(index: int) -> bytes:
    """A JPEG with large soft shapes, edges and grain, so that it is as hard to decode as a photograph of its size."""
    rng = np.random.default_rng(index)
    coarse = Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).resize(
        (SIDE, SIDE), Image.Resampling.BICUBIC
    )
    fine = rng.normal(0, 9, (SIDE // 2, SIDE // 2, 1)).repeat(2, axis=0).repeat(2, axis=1)
    pixels = np.asarray(coarse, dtype=np.float32) + fine
    pixels[:, rng.integers(SIDE) :] *= 0.8
    buffer = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def row(number: int) -> dict:
    rng = np.random.default_rng([7, number])
    label = 0.5 if rng.random() < TIES else float(rng.integers(2))
    names = [f"{number:08d}-{side}" for side in range(2)]
    return {
        "are_different": label != 0.5,
        "best_image_uid": "tie" if label == 0.5 else names[0 if label == 1 else 1],
        "caption": f"a picture of subject {number // PAIRS_PER_PROMPT}, highly detailed",
        "has_label": True,
        **{f"image_{side}_uid": names[side] for side in range(2)},
        **{f"jpg_{side}": picture(int(rng.integers(POOL))) for side in range(2)},
        "label_0": label,
        "label_1": 1 - label,
        **{f"model_{side}": "synthetic" for side in range(2)},
        "ranking_id": number,
        "user_id": 0,
        "num_example_per_prompt": PAIRS_PER_PROMPT,
    }


def write(folder: Path, rows: int) -> Path:
    """The folder of the data set with so many rows, below `folder`; written if it is not there."""
    target = folder / f"pairs-{rows}"
    files = -(-rows // ROWS_PER_FILE)
    target.mkdir(parents=True, exist_ok=True)
    for number in range(files):
        file = target / f"train-{number:05d}-of-{files:05d}.parquet"
        if file.exists():
            continue
        numbers = range(number * ROWS_PER_FILE, min((number + 1) * ROWS_PER_FILE, rows))
        # The hub's files have the images in one column chunk after the other too, uncompressed in effect.
        table = pa.Table.from_pylist([row(index) for index in numbers], SCHEMA)
        parquet.write_table(table, file.with_suffix(".tmp"), row_group_size=ROWS_PER_GROUP)
        file.with_suffix(".tmp").rename(file)
    return target


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("rows", type=int)
    given = parser.parse_args()
    print(write(given.folder, given.rows))
