"""Which row stands in for a broken one: a rule over the data alone, so that no other position shifts."""

from collections.abc import Callable, Iterator
from itertools import chain
from typing import NamedTuple

import numpy as np

from mapolab.data.order import Selection
from mapolab.data.records import Blocks

MOST_TRIED = 1000  # rows, before the data is taken for broken altogether


class Replaced(NamedTuple):
    """A broken row that a position came to. name: where it stands; replacement: the row used in its place.

    A tuple, because Lightning looks into batches and refuses frozen dataclasses there.
    """

    position: int
    row: int
    name: str
    reason: str
    replacement: int


def replacements(row: int, blocks: Blocks, labels: Callable[[int], np.ndarray], selection: Selection) -> Iterator[int]:
    """The rows to try in place of `row`, in this order: on from it to its block's end, from the block's beginning up to
    it, then the following blocks. Rows that the run does not use, or whose label is broken, are passed over.

    labels: of a block, as `Source.labels`.
    """
    first, offset = blocks.find(row)
    for step in range(len(blocks)):
        block = (first + step) % len(blocks)
        values = labels(block)
        usable = selection.keeps(values) & ~np.isnan(values)
        size, start = len(values), blocks.range(block).start
        offsets = chain(range(offset + 1, size), range(offset)) if step == 0 else range(size)
        yield from (start + other for other in offsets if usable[other])
