"""Parquet files in the schema of Pick-a-Pic v2 (`yuvalkirstain/pickapic_v2`), read one row group at a time.

Columns used: `caption`, `jpg_0` and `jpg_1` (encoded image files), `label_0` (1: jpg_0 is preferred, 0: jpg_1 is,
0.5: a tie), and where present `has_label`, `image_0_uid`, `image_1_uid` and `num_example_per_prompt`. Files without
`jpg_1` hold single images: liked where label_0 is 1 or absent, disliked where it is 0.
"""

import os
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet

from mapolab.data.records import (
    LONG_CAPTION,
    LONGEST_CAPTION,
    UNLABELLED,
    Blocks,
    BrokenFile,
    BrokenRow,
    EncodedImage,
    Record,
    RowText,
)
from mapolab.data.sources.index import NEEDED, OPTIONAL, Index
from mapolab.data.sources.remote import DataFile, RangeCache, open_remote
from mapolab.data.sources.row_groups import ERRORS, TooLarge, read_row_group

OPEN_FILES = 8  # kept open by one thread


class ParquetSource:
    """The rows of an indexed data set. Small to copy into loader processes: it holds the index and no row."""

    def __init__(self, index: Index, remote: bool, cache: RangeCache | None = None):
        self.index, self.remote, self.cache = index, remote, cache
        self.fingerprint = index.fingerprint
        self.broken_files: tuple[BrokenFile, ...] = index.broken
        self.images_per_row = 2 if "jpg_1" in index.columns else 1
        self.has_weights = "weight" in index.columns
        self.block_sizes = tuple(size for item in index.files for size in item.row_groups)
        self.places = [(item, group) for item in index.files for group in range(len(item.row_groups))]
        self.blocks = Blocks(self.block_sizes)
        self._local = threading.local()

    def labels(self, block: int) -> np.ndarray:
        table = self._read(block, ("label_0", "has_label"), self.cache)
        if isinstance(table, str):
            return np.full(self.block_sizes[block], np.nan)
        return _labels(table)

    def texts(self, block: int) -> Sequence[RowText]:
        # Past the cache: its pieces are much larger than these columns, and a pass over all texts would fill it.
        columns = ("caption", "image_0_uid", "image_1_uid", "num_example_per_prompt", "weight")
        table = self._read(block, columns, cache=None)
        if isinstance(table, str):
            return [RowText(None, ())] * self.block_sizes[block]
        rows = zip(self.blocks.range(block), table.to_pylist(), strict=True)
        return [RowText(_caption(values), self._image_ids(row, values), _weight(values)) for row, values in rows]

    def records(self, block: int) -> "RowGroup | UnreadableBlock":
        table = self._read(block, (*NEEDED, *OPTIONAL), self.cache)
        rows = self.blocks.range(block)
        return UnreadableBlock(rows, table) if isinstance(table, str) else RowGroup(self, rows, table)

    def name(self, row: int) -> str:
        block, offset = self.blocks.find(row)
        item, group = self.places[block]
        return f"{item.file.name}, row {sum(item.row_groups[:group]) + offset}"

    def _image_ids(self, row: int, values: dict[str, Any]) -> tuple[str, ...]:
        # Without a uid: a name that no image of another data set can have.
        names = (f"{self.fingerprint}:{row}:{side}" for side in range(self.images_per_row))
        return tuple(values.get(f"image_{side}_uid") or name for side, name in enumerate(names))

    def _read(self, block: int, columns: Sequence[str], cache: RangeCache | None) -> pa.Table | str:
        """The columns of a block, as far as the files have them; the reason if they cannot be read."""
        item, group = self.places[block]
        try:
            file = self._opened(item.file, cache)
            return read_row_group(file, group, [name for name in columns if name in item.columns])
        except FileNotFoundError:
            return "the file is missing"
        except TooLarge as error:
            return f"its row group takes {error}"
        except ERRORS as error:
            return f"the file cannot be read ({' '.join(str(error).split())[:100]})"

    def _opened(self, file: DataFile, cache: RangeCache | None) -> parquet.ParquetFile:
        # An open file has a place where it reads, so threads and forked processes each have their own.
        if getattr(self._local, "process", None) != os.getpid():
            self._local.process, self._local.files = os.getpid(), {}
        opened, key = self._local.files, (file.name, cache is None)
        if key not in opened:
            while len(opened) >= OPEN_FILES:
                opened.pop(next(iter(opened)))
            handle = open_remote(file, cache) if self.remote else file.url
            opened[key] = parquet.ParquetFile(handle, pre_buffer=self.remote, page_checksum_verification=True)
        return opened[key]

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_local"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ = state | {"_local": threading.local()}


class RowGroup:
    """The rows of one row group, as Arrow holds them: images are not copied before they are asked for."""

    def __init__(self, source: ParquetSource, rows: range, table: pa.Table):
        self.source, self.rows, self.table = source, rows, table
        self.labels, self.nbytes = _labels(table), table.nbytes

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, offset: int) -> Record:
        row, label = self.rows[offset], float(self.labels[offset])
        values = {name: self.table[name][offset].as_py() for name in self.table.column_names}
        if (caption := _caption(values)) is None:
            raise BrokenRow(row, "no caption" if values["caption"] is None else LONG_CAPTION)
        if np.isnan(label):
            raise BrokenRow(row, f"label_0 is {values['label_0']}")
        files = [_bytes(values[f"jpg_{side}"]) for side in range(self.source.images_per_row)]
        ids = self.source._image_ids(row, values)
        images = tuple(EncodedImage(name, data) for name, data in zip(ids, files, strict=True))
        return Record(row, caption, images, label, _weight(values))


class UnreadableBlock:
    """A block whose file was cut off or removed after it had been indexed: every row is broken."""

    nbytes = 0

    def __init__(self, rows: range, reason: str):
        self.rows, self.reason = rows, reason

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, offset: int) -> Record:
        raise BrokenRow(self.rows[offset], self.reason)


def _labels(table: pa.Table) -> np.ndarray:
    """(rows,) float64 as `Source.labels` has it. An empty label is none; one that no annotator can give is broken."""
    if "label_0" not in table.column_names:
        return np.ones(len(table))
    column = _of_type(table["label_0"], pa.float64())
    missing = np.asarray(column.is_null().to_numpy(zero_copy_only=False))
    values = column.fill_null(UNLABELLED).to_numpy(zero_copy_only=False).astype(np.float64)
    known = (values >= 0) & (values <= 1)
    if "has_label" in table.column_names:
        judged = _of_type(table["has_label"], pa.bool_()).fill_null(True).to_numpy(zero_copy_only=False)
        return np.where(judged, np.where(known, values, np.nan), UNLABELLED)
    return np.where(known, values, np.where(missing, UNLABELLED, np.nan))


def _of_type(column: pa.ChunkedArray, kind: pa.DataType) -> pa.Array:
    """The values together. kind: of a column of nothing but nulls, which has none of its own."""
    return (column.cast(kind) if pa.types.is_null(column.type) else column).combine_chunks()


def _caption(values: dict[str, Any]) -> str | None:
    """None where there is none that can be used."""
    caption = values["caption"]
    return None if caption is None or len(caption) > LONGEST_CAPTION else caption


def _weight(values: dict[str, Any]) -> float:
    """The column `weight`, where the data has one; else 1 / number of the prompt's examples, 1 without a count."""
    weight = values.get("weight")
    return 1.0 / (values.get("num_example_per_prompt") or 1) if weight is None else weight


def _bytes(value: Any) -> bytes:
    """The file of an image column: plain bytes, or the {bytes, path} that the datasets library writes. b"" for none."""
    # Never its path: data from elsewhere would name files of this machine.
    return (value.get("bytes") if isinstance(value, dict) else value) or b""
