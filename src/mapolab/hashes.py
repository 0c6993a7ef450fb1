"""The content of weights as hashes, each file read once: SDXL's UNet is 10 GB."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from mapolab import checksums, files
from mapolab.errors import UserError

CACHE = Path("~/.cache/mapolab/hashes").expanduser()
WORTH_KEEPING = 1 << 24  # bytes; smaller files are read again


def file_hashes(read: Iterable[Path]) -> list[str]:
    """`name:sha256` of each of these files."""
    return [f"{file.name}:{_hash(file)}" for file in read]


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
    return remembered(file, "sha256", files.sha256)


def remembered(file: Path, figure: str, compute: Callable[[Path], Any]) -> Any:
    """`compute(file)`, a JSON-able figure of the file's content, or what it was for this place, size and time before.

    The time is that of the last change, which no program can set back, beside that of the last writing.
    """
    before = _about(file)
    if before["size"] < WORTH_KEEPING:
        return compute(file)
    kept = CACHE / f"{files.short_hash([before['path'], figure])}.json"
    about = before | {"figure": figure}
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        record = checksums.read_json(kept)
        if record["about"] == about:
            return record["value"]
    value = compute(file)
    if _about(file) == before:  # else it was written to meanwhile
        with contextlib.suppress(OSError):  # a home that cannot be written to costs time only
            checksums.write_json(kept, {"about": about, "value": value})
    return value


def _about(file: Path) -> dict[str, Any]:
    stat = file.stat()
    times = {"written": stat.st_mtime_ns, "changed": stat.st_ctime_ns}
    return {"path": str(file.resolve()), "size": stat.st_size, "inode": stat.st_ino, **times}
