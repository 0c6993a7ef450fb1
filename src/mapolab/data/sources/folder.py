"""A plain folder of images: `w/` and `l/` with the preferred and the other image of a pair under equal names, or
`liked/` and `disliked/` with single ones; and their captions.

Captions stand in `captions.csv` (columns name, caption), `captions.jsonl` (objects with name and caption), or in a text
file beside each image of `w/` or `liked/` and `disliked/`, named like it. A single image's name begins with its folder:
`liked/cat.png`.
"""

import csv
import hashlib
import io
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mapolab.data.records import LONGEST_CAPTION, Blocks, BrokenFile, BrokenRow, EncodedImage, Record, RowText
from mapolab.errors import UserError
from mapolab.files import read_regular
from mapolab.pictures import MOST_BYTES

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp"}
PAIRED, SINGLE = ("w", "l"), ("liked", "disliked")
ROWS_PER_BLOCK = 64
MOST_TEXT = 1 << 28  # bytes of a file of captions
LAYOUT = (
    "Such a folder has w/ and l/ with the preferred and the other image under equal names (or liked/ and disliked/), "
    "and captions.csv with the columns name and caption, captions.jsonl, or a .txt file beside each image of w/."
)


def is_image_folder(path: str | Path) -> bool:
    """Whether a path is such a folder, or a part of one."""
    return any((Path(path) / side).is_dir() for side in (*PAIRED, *SINGLE))


class FolderSource:
    """The rows of a folder in the order of their names. An image is read when its record is."""

    broken_files: tuple[BrokenFile, ...] = ()

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.images_per_row = 2 if any((self.path / side).is_dir() for side in PAIRED) else 1
        if self.images_per_row == 2 and not all((self.path / side).is_dir() for side in PAIRED):
            raise UserError(f"{self.path} has only one of w/ and l/. {LAYOUT}")
        self.has_weights = False
        sides = PAIRED if self.images_per_row == 2 else SINGLE
        names = {side: image_names(self.path / side, self.path) for side in sides}
        # A pair is named once; a name without its partner stays a row, which is broken.
        rows = {name for side in sides for name in (names[side] if self.images_per_row == 2 else _below(side, names))}
        self.rows = sorted(rows)
        self.captions = captions_in(self.path, self.rows, sides[0] if self.images_per_row == 2 else None)
        if not self.rows or not self.captions:
            raise UserError(f"{self.path} holds no {'captions' if self.rows else 'images'}. {LAYOUT}")
        count = len(self.rows)
        self.block_sizes = tuple(min(ROWS_PER_BLOCK, count - start) for start in range(0, count, ROWS_PER_BLOCK))
        self.blocks = Blocks(self.block_sizes)
        self.fingerprint = self._fingerprint()

    def labels(self, block: int) -> np.ndarray:
        names = self._names(block)
        if self.images_per_row == 2:
            return np.ones(len(names))
        return np.array([float(name.startswith(f"{SINGLE[0]}/")) for name in names])

    def texts(self, block: int) -> Sequence[RowText]:
        return [RowText(self.captions.get(name), self._ids(name)) for name in self._names(block)]

    def records(self, block: int) -> "FolderRecords":
        return FolderRecords(self, self.blocks.range(block), self.labels(block))

    def name(self, row: int) -> str:
        return self.rows[row]

    def read(self, row: int, label: float) -> Record:
        """Raises BrokenRow."""
        name = self.rows[row]
        if (caption := self.captions.get(name)) is None:
            raise BrokenRow(row, "no caption")
        files = zip(self._ids(name), self._files(name), strict=True)
        images = tuple(EncodedImage(image_id, _read(self.path / file)) for image_id, file in files)
        return Record(row, caption, images, label)

    def _names(self, block: int) -> list[str]:
        rows = self.blocks.range(block)
        return self.rows[rows.start : rows.stop]

    def _files(self, name: str) -> tuple[str, ...]:
        return tuple(f"{side}/{name}" for side in PAIRED) if self.images_per_row == 2 else (name,)

    def _ids(self, name: str) -> tuple[str, ...]:
        # File names like 1.png occur in every folder; the fingerprint keeps those of two data sets apart.
        return tuple(f"{self.fingerprint}:{file}" for file in self._files(name))

    def _fingerprint(self) -> str:
        """Of names, sizes and captions: an image exchanged by another of exactly its size is not noticed."""
        digest = hashlib.sha256()
        for name in self.rows:
            files = [self.path / file for file in self._files(name)]
            sizes = [file.stat().st_size if file.is_file() else None for file in files]
            digest.update(json.dumps([name, sizes, self.captions.get(name)]).encode())
        return digest.hexdigest()[:8]


class FolderRecords:
    """A block's rows, each read when it is asked for."""

    nbytes = 0

    def __init__(self, source: FolderSource, rows: range, labels: np.ndarray):
        self.source, self.rows, self.labels = source, rows, labels

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, offset: int) -> Record:
        return self.source.read(self.rows[offset], float(self.labels[offset]))


def _read(file: Path) -> bytes:
    """The file's content, empty if it cannot be read: a broken image."""
    try:
        return read_regular(file, MOST_BYTES)
    except (OSError, UserError):
        return b""


def image_names(folder: Path, root: Path | None = None) -> list[str]:
    """The images below a folder, as paths from there. root: the data set's folder, if it is not this one.

    Raises UserError for what opening would not end with, and for links that leave the data set.
    """
    if not folder.is_dir():
        return []
    check_inside(folder, root or folder)
    found = []
    for file in folder.rglob("*"):
        if file.suffix.lower() in SUFFIXES and not file.is_dir():
            if not file.is_file():
                raise UserError(f"{file} is no regular file but a pipe, a device or a broken link. Remove it.")
            check_inside(file, root or folder)
            found.append(file.relative_to(folder).as_posix())
    return found


def check_inside(file: Path, root: Path) -> None:
    """Raise UserError for a link out of the data set: it could name any picture or text of this machine.

    The hub's own cache is made of such links, from snapshots/<commit>/ to blobs/.
    """
    if not file.is_symlink():
        return
    target, folder = file.resolve(), root.resolve()
    blobs = [above.parent / "blobs" for above in folder.parents if above.name == "snapshots"]
    if not any(target.is_relative_to(place) for place in (folder, *blobs)):
        raise UserError(f"{file} is a link out of the data set's folder, to {target}. Copy the file itself there.")


def _below(side: str, names: dict[str, list[str]]) -> list[str]:
    return [f"{side}/{name}" for name in names[side]]


def captions_in(path: Path, rows: list[str], side: str | None) -> dict[str, str]:
    """Captions by name. side: the folder of a pair's captions beside the images; None where names have their folder.

    Raises UserError for a file of captions that is not understood, and for two captions of one name.
    """
    try:
        if (file := path / "captions.csv").is_file():
            return _unique(file, csv.DictReader(io.StringIO(_text(file, path), newline="")))
        if (file := path / "captions.jsonl").is_file():
            return _unique(file, (json.loads(line) for line in _text(file, path).splitlines() if line.strip()))
        found = {}
        for name in rows:
            file = (path / (side or "") / name).with_suffix(".txt")
            if file.is_file():
                found[name] = _text(file, path).strip()
    except (KeyError, TypeError, ValueError, csv.Error, RecursionError, OSError) as error:
        raise UserError(f"{file} is not understood ({type(error).__name__} {str(error)[:100]}). {LAYOUT}") from None
    return {name: caption for name, caption in found.items() if len(caption) <= LONGEST_CAPTION}


def _text(file: Path, root: Path) -> str:
    check_inside(file, root)
    return read_regular(file, MOST_TEXT).decode()


def _unique(file: Path, lines: Iterable[dict[str, Any]]) -> dict[str, str]:
    """name -> caption; too long ones are left out, like missing ones."""
    found: dict[str, str] = {}
    for line in lines:
        name, caption = line["name"], line["caption"]
        if not caption:
            continue
        if not isinstance(name, str) or not isinstance(caption, str):
            raise TypeError(f"{name!r:.40} or its caption is no text")
        if found.setdefault(name, caption) != caption:
            raise UserError(f"{file} has two captions for {name}. Leave one.")
    return {name: caption for name, caption in found.items() if len(caption) <= LONGEST_CAPTION}
