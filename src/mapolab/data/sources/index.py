"""The index of a parquet data set: how many rows stand where, read from the files' footers alone, and kept.

A footer lists a file's row groups with their offsets, sizes and the columns' least and greatest values. So its hash
names the file's content well enough to notice an exchanged or re-written file, and no row has to be read for it.
"""

import hashlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as parquet

from mapolab import checksums
from mapolab.data.records import BrokenFile
from mapolab.data.sources.locate import Located
from mapolab.data.sources.remote import DataFile
from mapolab.data.sources.row_groups import ERRORS, TooLarge, check_size
from mapolab.errors import UserError
from mapolab.files import short_hash

NEEDED = ("caption", "jpg_0")
OPTIONAL = ("jpg_1", "label_0", "has_label", "image_0_uid", "image_1_uid", "num_example_per_prompt", "weight")
READERS = 16  # footers fetched at once
TAIL = 1 << 16  # bytes read first; most footers fit
MOST_FOOTER = 1 << 26  # bytes; a footer has some 100 for each column of a row group
VERSION = 2  # of the kept file; version 1 had no checksum


@dataclass(frozen=True)
class IndexedFile:
    """A parquet file. row_groups: rows of each. footer: hash of its footer."""

    file: DataFile
    row_groups: tuple[int, ...]
    columns: tuple[str, ...]
    footer: str


@dataclass(frozen=True)
class Index:
    """All files of a data set in the order of their names, sound and broken ones."""

    files: tuple[IndexedFile, ...]
    broken: tuple[BrokenFile, ...]

    @property
    def fingerprint(self) -> str:
        """Names the content; the same wherever the files lie."""
        return short_hash([[(item.file.size, item.footer) for item in self.files], [item.name for item in self.broken]])

    @property
    def columns(self) -> frozenset[str]:
        """The columns that all files have."""
        return frozenset.intersection(*(frozenset(item.columns) for item in self.files))


def load_index(located: Located, open_file: Callable[[DataFile], BinaryIO], folder: Path) -> Index:
    """The kept index of these files, or a new one from their footers, which is then kept under `folder`.

    Raises UserError for files without the columns of preference pairs, or with row groups too large to hold.
    """
    listing = [VERSION, [asdict(file) for file in located.files], located.missing]
    kept = folder / f"{short_hash(listing)}.json"
    try:
        return _from_json(checksums.read_json(kept))
    except (OSError, ValueError, KeyError, TypeError):
        index = _build(located, open_file)
    checksums.write_json(kept, asdict(index))
    return index


def _build(located: Located, open_file: Callable[[DataFile], BinaryIO]) -> Index:
    with ThreadPoolExecutor(READERS) as readers:
        results = list(readers.map(lambda file: _read(file, open_file), located.files))
    files = tuple(result for result in results if isinstance(result, IndexedFile))
    if not files:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in results[:3])
        raise UserError(f"None of the data's parquet files can be read ({reasons}). Fetch or write them again.")
    rows = round(sum(sum(item.row_groups) for item in files) / len(files))
    broken = [BrokenFile(*result, rows) for result in results if not isinstance(result, IndexedFile)]
    return Index(files, (*broken, *(BrokenFile(name, "the file is missing", rows) for name in located.missing)))


def _read(file: DataFile, open_file: Callable[[DataFile], BinaryIO]) -> IndexedFile | tuple[str, str]:
    """The file's entry; (name, reason) if it is broken."""
    try:
        with open_file(file) as opened:
            footer = _footer(opened, file.size)
        metadata = parquet.read_metadata(pa.BufferReader(b"PAR1" + footer))
        schema = metadata.schema.to_arrow_schema()
    except FileNotFoundError:
        return file.name, "the file is missing"
    except (*ERRORS, EOFError):
        return file.name, "no readable parquet file, perhaps cut off"
    columns = tuple(schema.names)
    _check_columns(file, columns)
    _check_types(file, schema)
    groups = [metadata.row_group(index) for index in range(metadata.num_row_groups)]
    try:
        for group in groups:
            check_size(group)
    except TooLarge as error:
        raise UserError(
            f"{file.name} has a row group of {error}, which every loader process would hold in memory. Write it again "
            "in smaller ones: pyarrow.parquet.write_table(table, file, row_group_size=100)."
        ) from None
    digest = hashlib.sha256(footer).hexdigest()
    return IndexedFile(file, tuple(group.num_rows for group in groups), columns, digest)


def _footer(opened: BinaryIO, size: int) -> bytes:
    """The footer with its length and the closing magic bytes. Raises EOFError for a file that has none."""
    tail = _tail(opened, size, TAIL)
    if tail[-4:] != b"PAR1":
        raise EOFError
    length = int.from_bytes(tail[-8:-4], "little") + 8
    if length > MOST_FOOTER:
        raise EOFError
    footer = tail[-length:] if length <= len(tail) else _tail(opened, size, length)
    if len(footer) < length:
        raise EOFError
    return footer


def _tail(opened: BinaryIO, size: int, length: int) -> bytes:
    opened.seek(max(0, size - length))
    return opened.read(min(size, length))


def _check_columns(file: DataFile, columns: tuple[str, ...]) -> None:
    needed = [*NEEDED, "label_0"] if "jpg_1" in columns else NEEDED
    if missing := [name for name in needed if name not in columns]:
        raise UserError(
            f"{file.name} lacks the column {missing[0]}. Preference pairs use the schema of Pick-a-Pic v2: caption, "
            "jpg_0, jpg_1 (bytes of encoded images) and label_0 (1, 0, or 0.5 for a tie); single images have no "
            "jpg_1, and label_0 says whether they are liked (1) or disliked (0)."
        )


def _check_types(file: DataFile, schema: pa.Schema) -> None:
    """A column of nothing but nulls has no type, and is fit."""
    for columns, (fit, wanted) in TYPES.items():
        for name in columns:
            kind = schema.field(name).type if name in schema.names else pa.null()
            if not pa.types.is_null(kind) and not fit(kind):
                raise UserError(
                    f"The column {name} of {file.name} holds {str(kind)[:60]}, which are no {wanted}. Write it again "
                    f"as {wanted}, as Pick-a-Pic v2 has it."
                )


def _is_text(kind: pa.DataType) -> bool:
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return str(kind) in ("string", "large_string", "string_view")


def _is_number(kind: pa.DataType) -> bool:
    return pa.types.is_integer(kind) or pa.types.is_floating(kind)


def _is_image(kind: pa.DataType) -> bool:
    return pa.types.is_struct(kind) or "binary" in str(kind) or _is_text(kind)


TYPES = {
    ("caption",): (_is_text, "strings"),
    ("jpg_0", "jpg_1"): (_is_image, "bytes of encoded images"),
    ("label_0", "weight", "num_example_per_prompt"): (_is_number, "numbers"),
    ("has_label",): (pa.types.is_boolean, "booleans"),
    ("image_0_uid", "image_1_uid"): (lambda kind: _is_text(kind) or pa.types.is_integer(kind), "strings"),
}


def _from_json(kept: dict[str, Any]) -> Index:
    files = tuple(
        IndexedFile(DataFile(**item["file"]), tuple(item["row_groups"]), tuple(item["columns"]), item["footer"])
        for item in kept["files"]
    )
    return Index(files, tuple(BrokenFile(**item) for item in kept["broken"]))
