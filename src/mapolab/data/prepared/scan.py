"""What the rows hold, without their images: labels, weights, and hashes of captions and image ids."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mapolab.data.buckets import bucket_of, bucket_sizes
from mapolab.data.image_ids import contents_of
from mapolab.data.images import BrokenImage, read_size
from mapolab.data.prepared.spec import CacheSpec
from mapolab.data.prepared.units import Unit, from_numpy, shard_name
from mapolab.data.records import UNLABELLED, Blocks, BrokenRow, RowText, Source

ROWS_PER_UNIT = 5000
HASH_BYTES = 16
NOTHING = bytes(HASH_BYTES)  # in place of the hash of what is not there


@dataclass(frozen=True)
class Scan:
    """All rows. N: rows, K: images of a row.

    captions (N,) and images (N, K): 128-bit hashes as void, zero for a row without caption; labels, weights (N,)
    float64; buckets (N,) int64, the number of the row's shape in `bucket_sizes`, 0 without buckets.
    """

    labels: np.ndarray
    weights: np.ndarray
    captions: np.ndarray
    images: np.ndarray
    buckets: np.ndarray

    @property
    def usable(self) -> np.ndarray:
        """(N,) bool: the rows with a caption and a label that is one."""
        nothing = np.zeros(1, dtype=np.dtype((np.void, HASH_BYTES)))
        return (self.labels != UNLABELLED) & ~np.isnan(self.labels) & (self.captions != nothing)


def ranges(source: Source) -> list[range]:
    """The blocks of each scan unit."""
    blocks = Blocks(source.block_sizes)
    found, start = [], 0
    for block in range(len(blocks)):
        rows = int(blocks.starts[block + 1] - blocks.starts[start])
        if rows >= ROWS_PER_UNIT or block + 1 == len(blocks):
            found.append(range(start, block + 1))
            start = block + 1
    return found


def units(folder: Path, source: Source, key: str, kind: str = "scan") -> list[Unit]:
    """The scan's files, or others that are cut like it. key: of the cache."""
    return [Unit(folder, shard_name(kind, number), key) for number in range(len(ranges(source)))]


def scan_blocks(source: Source, spec: CacheSpec, blocks: range, unit: Unit) -> None:
    """Read the narrow columns of some blocks, and with aspect buckets their images' headers too."""
    labels, weights, captions, images, buckets = [], [], [], [], []
    for block in blocks:
        texts = source.texts(block)
        labels.append(source.labels(block))
        weights.append([text.weight for text in texts])
        captions.append([_hash(text.caption) for text in texts])
        shapes = list(_buckets(source, spec, block)) if spec.aspect_buckets else [0] * len(texts)
        buckets.append(shapes)
        images.append([_image_hashes(source, *row) for row in zip(texts, shapes, strict=True)])
    unit.write(
        {
            "labels": from_numpy(np.concatenate(labels)),
            "weights": from_numpy(np.concatenate(weights).astype(np.float64)),
            "captions": from_numpy(_bytes(captions)),
            "images": from_numpy(_bytes(images).reshape(-1, source.images_per_row, HASH_BYTES)),
            "buckets": from_numpy(np.concatenate(buckets).astype(np.int64)),
        }
    )


def scan_contents(source: Source, wanted: np.ndarray, blocks: range, unit: Unit) -> None:
    """Read the images of some blocks whose ids occur again. wanted: (N, K) bool, those of all rows."""
    rows = Blocks(source.block_sizes)
    found = [contents_of(source, block, wanted[rows.range(block).start : rows.range(block).stop]) for block in blocks]
    unit.write({"contents": from_numpy(np.concatenate(found))})


def load_contents(scanned: list[Unit]) -> np.ndarray:
    """(N, K) int64, as `contents_of` gives them."""
    return np.concatenate([unit.read()["contents"].numpy() for unit in scanned])


def load_scan(scanned: list[Unit]) -> Scan:
    """The rows of all units."""
    parts = [unit.read() for unit in scanned]
    labels, weights, captions, images, buckets = (
        np.concatenate([part[name].numpy() for part in parts])
        for name in ("labels", "weights", "captions", "images", "buckets")
    )
    void = np.dtype((np.void, HASH_BYTES))
    return Scan(labels, weights, captions.view(void)[:, 0], images.view(void)[..., 0], buckets)


def _buckets(source: Source, spec: CacheSpec, block: int) -> Iterator[int]:
    shapes = bucket_sizes(spec.resolution)
    records = source.records(block)
    for offset in range(len(records)):
        try:
            sizes = [read_size(image.data) for image in records[offset].images]
        except (BrokenRow, BrokenImage):
            yield 0  # the row is found broken when it is encoded
        else:
            yield shapes.index(bucket_of(sizes, spec.resolution))


def _image_hashes(source: Source, text: RowText, bucket: int) -> bytes:
    # The same image in pairs of different shapes is encoded once for each.
    ids = text.image_ids or ("",) * source.images_per_row
    return b"".join(_hash(f"{bucket}:{name}" if name else None) for name in ids)


def _hash(text: str | None) -> bytes:
    return NOTHING if text is None else hashlib.blake2b(text.encode(), digest_size=HASH_BYTES).digest()


def _bytes(hashes: list[list[bytes]]) -> np.ndarray:
    """(n, HASH_BYTES) uint8."""
    joined = b"".join(item for block in hashes for item in block)
    return np.frombuffer(joined, dtype=np.uint8).reshape(-1, HASH_BYTES)
