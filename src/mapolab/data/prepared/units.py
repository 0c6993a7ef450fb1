"""The files of a cache, each a unit of work: tensors in a file, and beside it a note with its size and checksum."""

import hashlib
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from mapolab.files import read_json, sha256, write_bytes, write_json


class Unit:
    """A file of tensors. It is there when its note is, which is written last."""

    def __init__(self, path: Path):
        self.path, self.note_path = path, path.with_suffix(".json")

    def write(self, tensors: dict[str, Tensor], **notes: Any) -> None:
        """Write the file and then its note, each atomically."""
        data = save({name: tensor.contiguous() for name, tensor in tensors.items()})
        write_bytes(self.path, data)
        write_json(self.note_path, {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest(), **notes})

    def note(self) -> dict[str, Any] | None:
        """The note, or None if the unit is not there or its file has not the size it was written with."""
        try:
            note = read_json(self.note_path)
            return note if self.path.stat().st_size == note["bytes"] else None
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def is_sound(self) -> bool:
        """Whether the file is there and its content has the checksum that it was written with."""
        note = self.note()
        return note is not None and sha256(self.path) == note["sha256"]

    def read(self) -> dict[str, Tensor]:
        """The tensors, mapped into memory: a page is read when it is looked at."""
        with safe_open(self.path, "pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, it is no dict


def from_numpy(array: Any) -> Tensor:
    """A tensor of a numpy array's values."""
    return torch.from_numpy(array.copy())
