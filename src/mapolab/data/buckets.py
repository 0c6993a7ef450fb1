"""Aspect-ratio buckets: images keep more of their shape, and a batch holds images of one shape.

They need a prepared cache, where the shapes of all rows are known. Both images of a pair share a bucket, because they
go through the UNet together.
"""

import math
from collections.abc import Iterator
from functools import lru_cache
from itertools import count

import numpy as np

from mapolab.errors import UserError
from mapolab.streams import Stream, generator

WIDEST = 2.0  # width / height, and its reverse
STEP = 64  # pixels between the buckets' sides at 1024 px


@lru_cache
def bucket_sizes(resolution: int) -> tuple[tuple[int, int], ...]:
    """(height, width) of each bucket: about resolution^2 pixels, in steps of 64 px at 1024, the square among them."""
    step = max(8, resolution * STEP // 1024 // 8 * 8)
    sizes = {(resolution, resolution)}
    for width in range(step, 2 * resolution + 1, step):
        height = round(resolution**2 / width / step) * step
        if height and 1 / WIDEST <= width / height <= WIDEST:
            sizes.add((height, width))
    return tuple(sorted(sizes))


def bucket_of(sizes: list[tuple[int, int]], resolution: int) -> tuple[int, int]:
    """The bucket (height, width) for a row's images, given as (width, height): the nearest to their mean aspect ratio.

    The mean is geometric and so is the distance: turning images, or exchanging them, turns or keeps the bucket.
    """
    ratio = sum(math.log(width / height) for width, height in sizes) / len(sizes)
    return min(bucket_sizes(resolution), key=lambda bucket: (abs(math.log(bucket[1] / bucket[0]) - ratio), bucket))


class BucketOrder:
    """An order whose micro-steps hold rows of one bucket each; no position is empty.

    Each bucket's rows come in an endless stream, shuffled anew in each pass over them, and micro-steps cut it in pieces
    of `stride` rows. In its epoch e a bucket of n rows gives the pieces that end there, floor((e + 1) n / stride) -
    floor(e n / stride) of them; what is left over begins the next epoch's. The buckets of an epoch come in random
    order.

    rows, buckets: (n,) the usable rows and the bucket of each. stride: rows of a micro-step over all ranks.
    """

    def __init__(self, seed: int, rows: np.ndarray, buckets: np.ndarray, stride: int):
        if not len(rows):
            raise UserError("The data has no row that this run can use. Choose another data.path.")
        self.seed, self.stride = seed, stride
        self.members = [rows[buckets == bucket] for bucket in np.unique(buckets)]
        self.sizes = np.array([len(members) for members in self.members], dtype=np.int64)

    def positions(self, start: int) -> Iterator[int]:
        return count(start)

    def row(self, position: int) -> int:
        step, within = divmod(position, self.stride)
        epoch = self._epoch_of(step)
        bucket, piece = _pieces(self, epoch)[step - self._pieces_before(epoch)]
        number = int(piece) * self.stride + within
        passes, offset = divmod(number, int(self.sizes[bucket]))
        return int(self.members[bucket][_shuffled(self.seed, int(bucket), passes, int(self.sizes[bucket]))[offset]])

    def _pieces_before(self, epoch: int) -> int:
        return int((epoch * self.sizes // self.stride).sum())

    def _epoch_of(self, step: int) -> int:
        """The epoch that a micro-step lies in: the last one before which at most `step` pieces come."""
        low, high = 0, (step + len(self.sizes)) * self.stride // int(self.sizes.sum()) + 1
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if self._pieces_before(middle) <= step else (low, middle - 1)
        return low


@lru_cache(maxsize=4)
def _pieces(order: BucketOrder, epoch: int) -> np.ndarray:
    """(micro-steps, 2): bucket and number of the piece in its stream, in the order of an epoch."""
    first, last = (e * order.sizes // order.stride for e in (epoch, epoch + 1))
    buckets = np.repeat(np.arange(len(order.sizes)), last - first)
    buckets = generator(order.seed, Stream.BUCKET_STEP, epoch).permutation(buckets)
    pieces = np.empty_like(buckets)
    for bucket, start in enumerate(first):  # a bucket's own pieces stay in order
        mine = buckets == bucket
        pieces[mine] = start + np.arange(mine.sum())
    return np.stack([buckets, pieces], axis=1)


@lru_cache(maxsize=64)  # a batch's bucket changes with every micro-step
def _shuffled(seed: int, bucket: int, passes: int, size: int) -> np.ndarray:
    return generator(seed, Stream.BUCKET, bucket << 32 | passes).permutation(size)
