"""A plain folder of images: `w/` and `l/` with the preferred and the other image of a pair under equal names, or
`liked/` and `disliked/` with single ones; and their captions.

Captions stand in `captions.csv` (columns name, caption), `captions.jsonl` (objects with name and caption), or in a text
file beside each image of `w/` or `liked/` and `disliked/`, named like it. A single image's name begins with its folder:
`liked/cat.png`.
"""

import csv
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mapolab.data.records import Blocks, BrokenFile, BrokenRow, EncodedImage, Record, RowText
from mapolab.errors import UserError

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp"}
PAIRED, SINGLE = ("w", "l"), ("liked", "disliked")
ROWS_PER_BLOCK = 64
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
        names = {side: image_names(self.path / side) for side in sides}
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
        return file.read_bytes()
    except OSError:
        return b""


def image_names(folder: Path) -> list[str]:
    """The images below a folder, as paths from there."""
    if not folder.is_dir():
        return []
    files = (file for file in folder.rglob("*") if file.suffix.lower() in SUFFIXES)
    return [file.relative_to(folder).as_posix() for file in files]


def _below(side: str, names: dict[str, list[str]]) -> list[str]:
    return [f"{side}/{name}" for name in names[side]]


def captions_in(path: Path, rows: list[str], side: str | None) -> dict[str, str]:
    """Captions by name. side: the folder of a pair's captions beside the images; None where names have their folder.

    Raises UserError for a file of captions that is not understood.
    """
    try:
        if (file := path / "captions.csv").is_file():
            with open(file, newline="", encoding="utf-8") as opened:
                return {line["name"]: line["caption"] for line in csv.DictReader(opened) if line["caption"]}
        if (file := path / "captions.jsonl").is_file():
            lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
            return {line["name"]: line["caption"] for line in lines if line["caption"]}
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{file} is not understood ({type(error).__name__} {error}). {LAYOUT}") from None
    beside = {name: (path / (side or "") / name).with_suffix(".txt") for name in rows}
    return {name: file.read_text(encoding="utf-8").strip() for name, file in beside.items() if file.is_file()}
