"""What of a data set is different, and how it is cut into shards: a pure function of the scan."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mapolab.data.prepared.scan import Scan
from mapolab.data.prepared.units import Unit, shard_name

PROMPTS_PER_SHARD = 256
# At 512 px and above: what a kill may cost, and what progress is told by. Smaller images share a file with more.
IMAGES_PER_SHARD = 128
MOST_IMAGES_PER_SHARD = 2048


@dataclass(frozen=True)
class Plan:
    """N rows with K images each, U different images, Q different prompts, numbered by first occurrence.

    A row that no run can use has -1 for its images and its prompt.
    """

    row_images: np.ndarray  # (N, K) int64
    row_prompts: np.ndarray  # (N,) int64
    image_rows: np.ndarray  # (U,) int64, the row where an image occurs first
    image_places: np.ndarray  # (U,) int64, its number in that row
    image_buckets: np.ndarray  # (U,) int64
    prompt_rows: np.ndarray  # (Q,) int64
    images_per_shard: int

    @property
    def image_shards(self) -> list[range]:
        """The images of each shard."""
        return _cut(len(self.image_rows), self.images_per_shard)

    @property
    def prompts_per_shard(self) -> int:
        """The prompts of every shard but the last."""
        return PROMPTS_PER_SHARD

    @property
    def prompt_shards(self) -> list[range]:
        """The prompts of each shard."""
        return _cut(len(self.prompt_rows), PROMPTS_PER_SHARD)


def make_plan(scan: Scan, resolution: int) -> Plan:
    """Number what is different. Rows without a label or a caption, or with a broken label, are left out."""
    rows = np.flatnonzero(scan.usable)
    prompts, first_prompts = _numbered(scan.captions[rows])
    images, first_images = _numbered(scan.images[rows].reshape(-1))
    count = scan.images.shape[1]
    row_prompts = np.full(len(scan.labels), -1, dtype=np.int64)
    row_images = np.full(scan.images.shape, -1, dtype=np.int64)
    row_prompts[rows], row_images[rows] = prompts, images.reshape(-1, count)
    image_rows = rows[first_images // count]
    smaller = max(1, (512 / resolution) ** 2)
    return Plan(
        row_images=row_images,
        row_prompts=row_prompts,
        image_rows=image_rows,
        image_places=first_images % count,
        image_buckets=scan.buckets[image_rows],
        prompt_rows=rows[first_prompts],
        images_per_shard=int(min(MOST_IMAGES_PER_SHARD, IMAGES_PER_SHARD * smaller)),
    )


def image_units(folder: Path, plan: Plan, key: str) -> list[Unit]:
    """The files of the image shards. key: of the cache."""
    return [Unit(folder, shard_name("images", number), key) for number in range(len(plan.image_shards))]


def prompt_units(folder: Path, plan: Plan, key: str) -> list[Unit]:
    """The files of the prompt shards. key: of the cache."""
    return [Unit(folder, shard_name("prompts", number), key) for number in range(len(plan.prompt_shards))]


def _numbered(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each value's number, counted by first occurrence and equal for equal values; where each number occurs first."""
    _, first, inverse = np.unique(values, return_index=True, return_inverse=True)
    order = np.argsort(first)
    number = np.empty(len(order), dtype=np.int64)
    number[order] = np.arange(len(order))
    return number[inverse.reshape(-1)], first[order]


def _cut(count: int, size: int) -> list[range]:
    return [range(start, min(start + size, count)) for start in range(0, count, size)]
