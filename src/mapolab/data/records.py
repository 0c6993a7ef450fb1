"""What every source of preferences gives: one typed record a row, whatever the files look like."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

# The label of a row that nobody judged. Such rows are never used.
UNLABELLED = -1.0
TIE = 0.5
LONGEST_CAPTION = 100_000  # characters; encoders read some hundred
LONG_CAPTION = f"a caption of more than {LONGEST_CAPTION:,} characters"  # a broken row's reason


@dataclass(frozen=True)
class EncodedImage:
    """An image file's bytes, and a name that is the same wherever the same image occurs."""

    id: str
    data: bytes


@dataclass(frozen=True)
class RowText:
    """What can be known of a row without reading its images. caption None: the row is broken."""

    caption: str | None
    image_ids: tuple[str, ...]
    weight: float = 1.0


@dataclass(frozen=True)
class Record:
    """One judgement.

    images: two, in the order of the file, or one. label: 1, the first image is preferred, or the single one is liked;
    0, the second is preferred, or the single one is disliked; 0.5, neither; of pairs also the probability, 0..1, that
    the first one is preferred. weight: factor of the row's loss.
    """

    row: int
    caption: str
    images: tuple[EncodedImage, ...]
    label: float
    weight: float = 1.0


class BrokenRow(Exception):
    """A row that cannot be used: no caption, a label that is no label, an image that is none. reason: a few words."""

    def __init__(self, row: int, reason: str):
        super().__init__(row, reason)
        self.row, self.reason = row, reason


@dataclass(frozen=True)
class BrokenFile:
    """A file whose rows cannot be counted. rows: an estimate, the mean of the sound files."""

    name: str
    reason: str
    rows: int


class Source(Protocol):
    """Rows in blocks, a block being what is read at once: a parquet row group, or some files of a folder.

    Every method may raise RunError when a remote that holds the data does not answer.
    """

    fingerprint: str  # names the content; made without reading a row
    block_sizes: tuple[int, ...]  # rows of each block
    images_per_row: int  # 2: pairs; 1: single images, liked or disliked
    has_weights: bool  # rows bring their own weights; else a weight is 1 / number of the prompt's rows
    broken_files: tuple[BrokenFile, ...]

    def labels(self, block: int) -> np.ndarray:
        """(rows,) float64: 0..1, UNLABELLED, or nan for a broken one. Reads no image."""
        ...

    def texts(self, block: int) -> Sequence[RowText]:
        """Captions and image ids of a block. Reads no image."""
        ...

    def records(self, block: int) -> "Records":
        """The block with its images."""
        ...

    def name(self, row: int) -> str:
        """Where a row stands, for people: `train-00003.parquet, row 17`."""
        ...


class Blocks:
    """Rows by number, and by (block, offset)."""

    def __init__(self, sizes: Sequence[int]):
        # starts[b]: the first row of block b; one more entry, the number of rows.
        self.starts = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])

    def __len__(self) -> int:
        return len(self.starts) - 1

    @property
    def rows(self) -> int:
        """The number of rows in all blocks."""
        return int(self.starts[-1])

    def find(self, row: int) -> tuple[int, int]:
        """(block, offset) of a row."""
        block = int(np.searchsorted(self.starts, row, side="right")) - 1
        return block, int(row - self.starts[block])

    def range(self, block: int) -> range:
        """The numbers of a block's rows."""
        return range(int(self.starts[block]), int(self.starts[block + 1]))


class Records(Protocol):
    """The rows of one block, in memory."""

    nbytes: int  # how much memory they take

    def __len__(self) -> int: ...

    def __getitem__(self, offset: int) -> Record:
        """Raises BrokenRow."""
        ...
