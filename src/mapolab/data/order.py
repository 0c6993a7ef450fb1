"""Which sample comes when, as a function of (seed, position).

A position is a place in the endless order of a run: it grows over epochs, ranks and accumulation steps, and is the only
notion of progress. A run that has come to position N continues there, on any number of workers, without replaying.

Two orders. `GlobalOrder` shuffles all rows that can be used; it needs to know them beforehand, as a prepared cache
does. `WindowOrder` needs nothing but the sizes of the blocks: it shuffles the blocks, and rows within a window of some
blocks, so that a reader holds one window at a time. What a row is worth it learns when it comes there; a row that is
not used (a tie, say) leaves its position empty.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from itertools import count, islice
from typing import Protocol

import numpy as np
from torch.utils.data import Sampler

from mapolab.data.records import TIE, UNLABELLED
from mapolab.errors import UserError
from mapolab.streams import Stream, generator

READERS = 8  # threads that look up the labels of a window's blocks
NOTHING_USABLE = (
    "The data has no row that this run can use (all are ties, unlabelled or disliked). Choose another data.path."
)


@dataclass(frozen=True)
class Selection:
    """Which rows a run uses, by their label. A broken label (nan) counts as used: such a row is replaced by another."""

    ties: bool = False
    zeros: bool = True  # label 0: the second image is preferred; of single images: disliked

    def keeps(self, labels: np.ndarray) -> np.ndarray:
        """(rows,) bool for (rows,) labels."""
        kept = labels != UNLABELLED
        if not self.ties:
            kept &= labels != TIE
        return kept if self.zeros else kept & (labels != 0)


class Order(Protocol):
    """The order of a run's samples."""

    def positions(self, start: int) -> Iterator[int]:
        """The positions from `start` on that hold a sample, without end."""
        ...

    def row(self, position: int) -> int:
        """The row of the data set at a position."""
        ...


@lru_cache(maxsize=2)  # two: a batch can lie across an epoch's end
def permutation(seed: int, epoch: int, size: int, stream: Stream = Stream.ORDER) -> np.ndarray:
    """(size,) int64, a permutation of 0 .. size - 1 for each epoch."""
    return generator(seed, stream, epoch).permutation(size)


class GlobalOrder:
    """Every epoch visits each of `rows` once, all shuffled together. No position is empty."""

    def __init__(self, seed: int, rows: np.ndarray):
        if not len(rows):
            raise UserError(NOTHING_USABLE)
        self.seed, self.rows = seed, rows

    def positions(self, start: int) -> Iterator[int]:
        return count(start)

    def row(self, position: int) -> int:
        epoch, offset = divmod(position, len(self.rows))
        return int(self.rows[permutation(self.seed, epoch, len(self.rows))[offset]])


class WindowOrder:
    """Every epoch visits the blocks in a new order, and the rows of each window of blocks shuffled together.

    window: the least number of rows in a window; it always holds whole blocks. keeps: of a block, which rows are used.
    """

    def __init__(self, seed: int, sizes: Sequence[int], window: int, keeps: Callable[[int], np.ndarray]):
        self.seed, self.window, self.keeps = seed, window, keeps
        self.sizes = np.asarray(sizes, dtype=np.int64)
        self.first_rows = np.cumsum(self.sizes) - self.sizes
        self.size = int(self.sizes.sum())
        self._epoch: tuple[int, _Epoch] | None = None

    def row(self, position: int) -> int:
        epoch, slot = divmod(position, self.size)
        shuffled = self._shuffled(epoch)
        window = shuffled.window_at(slot)
        return int(_window_rows(self, epoch, window)[slot - shuffled.window_starts[window]])

    def blocks(self, position: int) -> list[int]:
        """The blocks of the window that a position lies in: what a reader should hold."""
        epoch, slot = divmod(position, self.size)
        shuffled = self._shuffled(epoch)
        return shuffled.blocks_of(shuffled.window_at(slot)).tolist()

    def next_window(self, position: int) -> int:
        """Where the window after that of `position` begins."""
        epoch, slot = divmod(position, self.size)
        shuffled = self._shuffled(epoch)
        return epoch * self.size + int(shuffled.window_starts[shuffled.window_at(slot) + 1])

    def positions(self, start: int) -> Iterator[int]:
        empty = 0
        with ThreadPoolExecutor(READERS) as readers:
            while True:
                used, end = self._used_in_window(start, readers)
                yield from used
                empty = 0 if used else empty + end - start
                if empty > self.size:
                    raise UserError(NOTHING_USABLE)
                start = end

    def _used_in_window(self, start: int, readers: ThreadPoolExecutor) -> tuple[list[int], int]:
        """The used positions from `start` to the end of its window, and that end."""
        epoch, slot = divmod(start, self.size)
        shuffled = self._shuffled(epoch)
        window = shuffled.window_at(slot)
        blocks = shuffled.blocks_of(window)
        used = np.concatenate(list(readers.map(self.keeps, blocks.tolist())))
        used = used[self._shuffle(epoch, window, len(used))]
        first = int(shuffled.window_starts[window])
        offset = epoch * self.size + first
        positions = offset + np.flatnonzero(used)
        return positions[positions >= start].tolist(), offset + len(used)

    def _shuffle(self, epoch: int, window: int, size: int) -> np.ndarray:
        return generator(self.seed, Stream.WINDOW, epoch << 32 | window).permutation(size)

    def _shuffled(self, epoch: int) -> "_Epoch":
        if self._epoch is None or self._epoch[0] != epoch:
            self._epoch = epoch, _Epoch(permutation(self.seed, epoch, len(self.sizes)), self.sizes, self.window)
        return self._epoch[1]


class _Epoch:
    """One epoch's order of blocks, cut into windows."""

    def __init__(self, blocks: np.ndarray, sizes: np.ndarray, window: int):
        self.blocks = blocks
        ends = np.cumsum(sizes[blocks])
        cuts, filled = [0], 0
        for index, end in enumerate(ends.tolist(), start=1):
            if end - filled >= window or index == len(blocks):
                cuts.append(index)
                filled = end
        self.cuts = np.array(cuts)  # window w is blocks[cuts[w]:cuts[w + 1]]
        self.window_starts = np.concatenate([[0], ends[self.cuts[1:] - 1]])  # in slots of the epoch

    def window_at(self, slot: int) -> int:
        return int(np.searchsorted(self.window_starts, slot, side="right")) - 1

    def blocks_of(self, window: int) -> np.ndarray:
        return self.blocks[self.cuts[window] : self.cuts[window + 1]]


@lru_cache(maxsize=2)
def _window_rows(order: WindowOrder, epoch: int, window: int) -> np.ndarray:
    """The rows of a window in the order of their visits."""
    blocks = order._shuffled(epoch).blocks_of(window)
    starts = order.first_rows[blocks]
    rows = np.concatenate(
        [np.arange(start, start + size) for start, size in zip(starts, order.sizes[blocks], strict=True)]
    )
    return rows[order._shuffle(epoch, window, len(rows))]


@dataclass(frozen=True)
class MicroStep:
    """One forward pass of one rank. end: where the next one begins, for all ranks together."""

    positions: list[int]
    end: int


class MicroSteps(Sampler[MicroStep]):
    """The forward passes of this rank, from position `start` on.

    Micro-step m takes the next `batch_size * world_size` positions that hold a sample; rank r has the r-th `batch_size`
    of them. The length is that of the whole run, also when `done` micro-steps lie behind: Lightning restores its own
    count of batches from the checkpoint and compares it with the length, so a resumed loader must report the full one
    and yield the rest.
    """

    def __init__(
        self, order: Order, start: int, done: int, total: int, batch_size: int, rank: int = 0, world_size: int = 1
    ):
        self.order, self.start, self.done, self.total = order, start, done, total
        self.batch_size, self.rank, self.stride = batch_size, rank, batch_size * world_size

    def __iter__(self) -> Iterator[MicroStep]:
        positions = self.order.positions(self.start)
        first = self.rank * self.batch_size
        for _ in range(self.done, self.total):
            together = list(islice(positions, self.stride))
            yield MicroStep(together[first : first + self.batch_size], end=together[-1] + 1)

    def __len__(self) -> int:
        return self.total
