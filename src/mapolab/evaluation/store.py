"""Pictures and scores under the hash of everything that decides them, so that nothing is drawn or scored twice.

    <store>/ab/abcdef....png    a picture, its settings in the file's metadata
    <store>/ab/abcdef....json   its scores, by scorer's fingerprint

A file is written whole, and its name says what it must hold; so processes share a store without asking each other.
"""

from __future__ import annotations

import io
import json
import math
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, UnidentifiedImageError
from PIL.PngImagePlugin import PngInfo

from mapolab import files
from mapolab.errors import UserError

# What of an evaluation's settings decides a picture, beside the model, the prompt and its noise. Not batch_size: what
# stands beside a picture can change a last bit, as other hardware does, which is no part of the key either; a picture
# that is rounded otherwise is the same one, and thousands of them would be drawn anew for another batch size.
DRAWING = ("negative_prompt", "steps", "guidance_scale", "scheduler", "height", "width", "precision")


@dataclass(frozen=True)
class Store:
    """A folder of pictures and scores. Keys are 40 hex characters."""

    folder: Path

    def picture(self, key: str) -> Path:
        """Where the picture of this key lies, drawn or not."""
        return self.folder / key[:2] / f"{key}.png"

    def has_picture(self, key: str) -> bool:
        """Whether the picture is there and whole, by the checksums in its file; a broken one is drawn again."""
        try:
            with Image.open(self.picture(key)) as picture:
                picture.verify()
        except (UnidentifiedImageError, OSError, ValueError, SyntaxError):
            return False
        return True

    def keep_picture(self, key: str, picture: Image.Image, about: dict[str, Any]) -> None:
        """Write a picture with `about` in its metadata, each entry as text of its own (JSON, but for strings)."""
        info = PngInfo()
        for name, value in about.items():
            info.add_text(name, value if isinstance(value, str) else json.dumps(value, sort_keys=True))
        buffer = io.BytesIO()
        picture.save(buffer, "PNG", pnginfo=info)
        files.write_bytes(self.picture(key), buffer.getvalue())

    def load_picture(self, key: str) -> Image.Image:
        """In RGB. Raises UserError for a file that is no whole picture."""
        return load_picture(self.picture(key))

    def scores(self, key: str) -> dict[str, float]:
        """The scores of a picture by fingerprint; none where they cannot be read."""
        try:
            kept = files.read_json(self._scores_file(key))
        except (FileNotFoundError, ValueError):
            return {}
        return {name: value for name, value in kept.items() if isinstance(value, int | float) and math.isfinite(value)}

    def keep_scores(self, key: str, scores: dict[str, float]) -> None:
        """Add scores to those of a picture."""
        files.write_json(self._scores_file(key), self.scores(key) | scores)

    def sweep(self) -> None:
        """Remove what killed processes left of unfinished files."""
        for folder in self.folder.glob("[0-9a-f][0-9a-f]"):
            files.sweep(folder)

    def _scores_file(self, key: str) -> Path:
        return self.picture(key).with_suffix(".json")


def load_picture(path: Path) -> Image.Image:
    """In RGB. Raises UserError for a file that is no whole picture."""
    try:
        with Image.open(path) as picture:
            return picture.convert("RGB")
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError) as error:
        raise UserError(
            f"The picture {path} is broken ({type(error).__name__}). The same command draws it again."
        ) from None


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
