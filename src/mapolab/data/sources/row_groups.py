"""Row groups of parquet files, read within bounds of memory that do not rest on what the file says of itself.

A footer tells how large the encoded pages are. A dictionary page holds a value once, however many rows have it, so a
file of 2 MB can grow to 50 GB in memory; what was decoded is counted while it is read.
"""

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.parquet as parquet

MOST_BYTES = 1 << 30  # decoded; a row group is held in memory as a whole by every loader process
MOST_ROWS = 1 << 20  # what pyarrow writes at most where nobody says otherwise; rows of nothing but nulls take no byte
# What pyarrow raises for files that are cut off, lie about their pages, or hold other types than they say.
ERRORS = (pa.ArrowException, OSError, ValueError, KeyError, OverflowError)


class TooLarge(ValueError):
    """A row group beyond the bounds; the message says by what."""


def check_size(group: parquet.RowGroupMetaData) -> None:
    """Raise TooLarge for what the footer itself tells to be beyond the bounds."""
    if group.num_rows > MOST_ROWS:
        raise TooLarge(f"{group.num_rows:,} rows")
    if group.total_byte_size > MOST_BYTES:
        raise TooLarge(f"{group.total_byte_size / 2**30:.1f} GiB")


def read_row_group(file: parquet.ParquetFile, number: int, columns: Sequence[str]) -> pa.Table:
    """These columns of a row group. Raises TooLarge, and `ERRORS` for a file that cannot be read."""
    group = file.metadata.row_group(number)
    check_size(group)
    # A value is no larger than the pages of its column: so many rows at once are no more than a quarter of the bound.
    chunks = [group.column(index) for index in range(group.num_columns)]
    if (size := sum(chunk.total_compressed_size for chunk in chunks)) > MOST_BYTES:
        raise TooLarge(f"{size / 2**30:.1f} GiB in the file")
    largest = max((chunk.total_uncompressed_size for chunk in chunks), default=0)
    at_once = max(1, min(group.num_rows, MOST_BYTES // 4 // max(largest, 1)))
    batches, size = [], 0
    for batch in file.iter_batches(at_once, row_groups=[number], columns=list(columns), use_threads=False):
        size += batch.nbytes
        if size > MOST_BYTES:
            raise TooLarge(f"more than {MOST_BYTES >> 30} GiB once it is decoded")
        batches.append(batch)
    if not batches:
        return file.schema_arrow.empty_table().select(list(columns))
    table = pa.Table.from_batches(batches)
    if len(table) != group.num_rows:
        raise ValueError(f"{len(table)} rows instead of {group.num_rows}")
    texts = [name for name in table.column_names if pa.types.is_string(table.schema.field(name).type)]
    table.select(texts).validate(full=True)  # that they are UTF-8
    return table
