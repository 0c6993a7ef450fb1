"""The files of a cache, each a unit of work: tensors in a file, and beside it a note with its size and checksums."""

import contextlib
import hashlib
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from mapolab import checksums
from mapolab.errors import UserError
from mapolab.files import sha256, write_bytes


class DamagedUnit(UserError):
    """A file of a cache whose content is not what was written. It counts as missing from now on."""

    def __init__(self, path: Path):
        super().__init__(
            f"The cache's file {path} is damaged: it is not what was written. The same command, or `mapolab prepare`, "
            "makes it again."
        )
        self.path = path


class Unit:
    """A file of tensors. It is there when its note is, which is written last.

    name: from the cache's folder, without ending. key: of the cache (`CacheSpec.key`): a file that was exchanged with
    another's, of this or another cache, counts as missing. Notes of earlier versions tell neither.
    """

    def __init__(self, folder: Path, name: str, key: str):
        self.folder, self.name, self.key = folder, name, key
        self.path, self.note_path = folder / f"{name}.safetensors", folder / f"{name}.json"

    def write(self, tensors: dict[str, Tensor], **notes: Any) -> None:
        """Write the file and then its note, each atomically."""
        data = save({name: tensor.contiguous() for name, tensor in tensors.items()})
        write_bytes(self.path, data)
        written = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest(), "crc32": checksums.crc32(data)}
        checksums.write_json(self.note_path, {"name": self.name, "cache": self.key, **written, **notes})

    def note(self) -> dict[str, Any] | None:
        """The note, or None if the unit is not there or its file has not the size it was written with."""
        try:
            note = checksums.read_json(self.note_path)
            mine = note.get("name", self.name) == self.name and note.get("cache", self.key) == self.key
            return note if mine and note["sha256"] and self.path.stat().st_size == note["bytes"] else None
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def is_sound(self) -> bool:
        """Whether the file is there and its content has the SHA-256 that it was written with."""
        note = self.note()
        return note is not None and sha256(self.path) == note["sha256"]

    def read(self, written: dict[str, Any] | None = None) -> dict[str, Tensor]:
        """The tensors, mapped into memory, after their checksum: the file is read once as a whole.

        written: what it must be, if that is not told by its note: `bytes`, and `crc32` or, of earlier versions, only
        `sha256`. Raises DamagedUnit.
        """
        written = written or self.note()
        try:
            if not written or not _is_what_was_written(self.path, written):
                raise self.damaged()
            with safe_open(self.path, "pt") as file:
                return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, it is no dict
        except (OSError, SafetensorError):
            raise self.damaged() from None

    def damaged(self) -> DamagedUnit:
        """Let the file count as missing, and the cache as unfinished; returns the error to raise."""
        with contextlib.suppress(OSError):  # of a folder that may only be read
            self.note_path.unlink(missing_ok=True)
        return DamagedUnit(self.path)


def shard_name(kind: str, number: int) -> str:
    """The name of the number-th unit of a kind."""
    return f"{kind}/{number:05d}"


def _is_what_was_written(path: Path, written: dict[str, Any]) -> bool:
    if path.stat().st_size != written["bytes"]:
        return False
    return checksums.file_crc32(path) == written["crc32"] if "crc32" in written else sha256(path) == written["sha256"]


def from_numpy(array: Any) -> Tensor:
    """A tensor of a numpy array's values."""
    return torch.from_numpy(array.copy())
