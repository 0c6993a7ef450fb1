"""Pictures and scores under the hash of everything that decides them, so that nothing is drawn or scored twice.

    <store>/ab/abcdef....png    a picture, its settings in the file's metadata
    <store>/ab/abcdef....json   the picture's SHA-256, and its scores by scorer's fingerprint

A file is written whole, and its name says what it must hold; so processes share a store without asking each other. A
picture that is not the one of the SHA-256 (damaged, or edited through its other name in an evaluation's images/) is
drawn again, and scored again.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from mapolab import checksums, files
from mapolab.errors import UserError
from mapolab.pictures import MOST_BYTES, BrokenImage, decode_rgb, open_picture

# What of an evaluation's settings decides a picture, beside the model, the prompt and its noise. Not batch_size: what
# stands beside a picture can change a last bit, as other hardware does, which is no part of the key either; a picture
# that is rounded otherwise is the same one, and thousands of them would be drawn anew for another batch size.
PICTURE = "picture"  # the key of the SHA-256, among fingerprints
DRAWING = ("negative_prompt", "steps", "guidance_scale", "scheduler", "height", "width", "precision")


@dataclass(frozen=True)
class Store:
    """A folder of pictures and scores. Keys are 40 hex characters."""

    folder: Path

    def picture(self, key: str) -> Path:
        """Where the picture of this key lies, drawn or not."""
        return self.folder / key[:2] / f"{key}.png"

    def has_picture(self, key: str) -> bool:
        """Whether the picture is there and the one that was drawn; another is drawn again.

        One of an earlier version, which kept no SHA-256, is known by the checksums in its file.
        """
        try:
            data, known = files.read_regular(self.picture(key), MOST_BYTES), self._kept(key)
        except (OSError, UserError, ValueError):
            return False
        if PICTURE in known:
            return known[PICTURE] == _digest(data)
        try:
            open_picture(data).verify()
        except Exception:  # whatever broken bytes lead Pillow to
            return False
        return True

    def keep_picture(self, key: str, picture: Image.Image, about: dict[str, Any]) -> None:
        """Write a picture with `about` in its metadata, each entry as text of its own (JSON, but for strings).

        Scores that were kept for other pixels under this key are dropped.
        """
        info = PngInfo()
        for name, value in about.items():
            info.add_text(name, value if isinstance(value, str) else json.dumps(value, sort_keys=True))
        buffer = io.BytesIO()
        picture.save(buffer, "PNG", pnginfo=info)
        digest = _digest(buffer.getvalue())
        # Before the picture: one without its SHA-256 would be taken for an earlier version's.
        if self._record(key).get(PICTURE) != digest:
            checksums.write_json(self._scores_file(key), {PICTURE: digest})
        files.write_bytes(self.picture(key), buffer.getvalue())

    def load_picture(self, key: str) -> Image.Image:
        """In RGB. Raises UserError for a file that is no whole picture, or not the one that was drawn."""
        file = self.picture(key)
        try:
            data = files.read_regular(file, MOST_BYTES)
            if self._record(key).get(PICTURE) not in (None, _digest(data)):
                raise BrokenImage("not the one that was drawn")
            return decode_rgb(data)
        except (OSError, BrokenImage) as error:
            raise UserError(f"The picture {file} is broken ({error}). The same command draws it again.") from None

    def scores(self, key: str) -> dict[str, float]:
        """The scores of a picture by fingerprint; none where they cannot be read, or are not what was written."""
        kept = self._record(key).items()
        return {name: value for name, value in kept if isinstance(value, int | float) and math.isfinite(value)}

    def keep_scores(self, key: str, scores: dict[str, float]) -> None:
        """Add scores to those of a picture."""
        known = {name: value for name, value in self._record(key).items() if name == PICTURE}
        if not known and self.picture(key).is_file():  # an earlier version's
            known = {PICTURE: files.sha256(self.picture(key))}
        checksums.write_json(self._scores_file(key), known | self.scores(key) | scores)

    def _record(self, key: str) -> dict[str, Any]:
        """What is kept of a picture; empty where that is damaged."""
        try:
            return self._kept(key)
        except ValueError:
            return {}

    def _kept(self, key: str) -> dict[str, Any]:
        """Empty where nothing is. Raises ValueError for a damaged file."""
        try:
            return checksums.read_json(self._scores_file(key))
        except FileNotFoundError:
            return {}

    def sweep(self) -> None:
        """Remove what killed processes left of unfinished files."""
        for folder in self.folder.glob("[0-9a-f][0-9a-f]"):
            files.sweep(folder)

    def _scores_file(self, key: str) -> Path:
        return self.picture(key).with_suffix(".json")


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def link(source: Path, target: Path) -> None:
    """`target` as another name of `source`'s content: a hard link, or a copy where the file system has none."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.exists() and os.path.samefile(source, target):
        return
    temporary = files.unfinished(target)
    try:
        os.link(source, temporary)
    except OSError:
        shutil.copyfile(source, temporary)
    os.replace(temporary, target)
