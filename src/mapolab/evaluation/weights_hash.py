"""The content of weights as hashes, each file read once: SDXL's UNet is 10 GB."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from mapolab import files
from mapolab.errors import UserError

CACHE = Path("~/.cache/mapolab/hashes").expanduser()
KINDS = (".safetensors", ".json")


def folder_hashes(weights: Path) -> list[str]:
    """`name:sha256` of every weight and config in a folder, or of one file."""
    found = [weights] if weights.is_file() else sorted(file for file in weights.iterdir() if file.suffix in KINDS)
    return [f"{file.name}:{_hash(file)}" for file in found]


def tree_hashes(path: Path) -> list[str]:
    """SHA-256 of a file; `name:sha256` of all files below a folder but hidden ones and compiled Python.

    Raises UserError for a file that cannot be read.
    """
    try:
        if path.is_file():
            return [_hash(path)]
        found, seen = [], set()
        for folder, folders, names in os.walk(path, followlinks=True):
            new = Path(folder).resolve() not in seen  # links may form a circle
            seen.add(Path(folder).resolve())
            folders[:] = sorted(name for name in folders if new and not name.startswith((".", "__pycache__")))
            files = [Path(folder, name) for name in sorted(names) if not name.startswith(".")] if new else []
            found += [f"{file.relative_to(path).as_posix()}:{_hash(file)}" for file in files if file.is_file()]
        return found
    except PermissionError as error:
        raise UserError(f"{error.filename} cannot be read, so its content has no name. Make it readable.") from None


def _hash(file: Path) -> str:
    """From the cache where a file of this place, size and time was hashed before."""
    stat = file.stat()
    if stat.st_size < 1 << 24:
        return files.sha256(file)
    place = files.short_hash(str(file.resolve()))
    about = [stat.st_size, stat.st_mtime_ns]
    kept = CACHE / f"{place}.json"
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        before = files.read_json(kept)
        if before["about"] == about and before["path"] == str(file.resolve()):
            return before["sha256"]
    found = files.sha256(file)
    with contextlib.suppress(OSError):  # a home that cannot be written to costs time only
        files.write_json(kept, {"path": str(file.resolve()), "about": about, "sha256": found})
    return found
