"""The blocks that samples are read from, held in memory while they are in use."""

import copy
import threading
from collections import OrderedDict

from torch.utils.data import get_worker_info

from mapolab.data.order import Order, WindowOrder
from mapolab.data.records import Blocks, Record, Records, Source
from mapolab.errors import RunError

# For orders without windows, which may come to any block at any time.
MOST_BYTES = 512 << 20


class BlockReader:
    """Records by row. Holds the window that the order is in, and nothing else: memory does not grow with the data."""

    def __init__(self, source: Source, order: Order):
        self.source, self.order, self.blocks = source, order, Blocks(source.block_sizes)
        self.held: OrderedDict[int, Records] = OrderedDict()
        self.window: set[int] = set()

    def record(self, row: int) -> Record:
        """Raises BrokenRow, and RunError when a remote does not answer."""
        block, offset = self.blocks.find(row)
        if block not in self.held:
            self.held[block] = self.source.records(block)
        self.held.move_to_end(block)
        return self.held[block][offset]

    def go_to(self, positions: list[int]) -> None:
        """Drop what the samples at these positions, and those after them, do not need."""
        if not isinstance(self.order, WindowOrder):
            while len(self.held) > 1 and sum(records.nbytes for records in self.held.values()) > MOST_BYTES:
                self.held.popitem(last=False)
            return
        window = {*self.order.blocks(positions[0]), *self.order.blocks(positions[-1])}
        if window != self.window:
            self.window = window
            for block in self.held.keys() - window:
                del self.held[block]
            self._fetch_ahead(self.order.blocks(self.order.next_window(positions[-1])))

    def _fetch_ahead(self, blocks: list[int]) -> None:
        """Have a thread bring this process's share of the next window to the local disk, if the data is elsewhere."""
        if getattr(self.source, "cache", None) is None:
            return
        worker = get_worker_info()
        share = blocks[worker.id :: worker.num_workers] if worker else blocks
        thread = threading.Thread(target=_fetch, args=(copy.copy(self.source), share), name="fetch ahead", daemon=True)
        thread.start()


def _fetch(source: Source, blocks: list[int]) -> None:
    try:
        for block in blocks:
            source.records(block)
    except RunError:
        pass  # whoever needs the block meets the same error, and reports it
