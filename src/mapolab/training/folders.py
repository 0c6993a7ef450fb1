"""Folders that are whole or absent: written beside their place, flushed, renamed."""

import os
import re
import secrets
import shutil
from pathlib import Path
from typing import Any, Required

from typing_extensions import TypedDict

from mapolab import files
from mapolab.errors import UserError
from mapolab.files import errors_of, fsync_folder, make_folder, sha256
from mapolab.output import UNFINISHED_FOLDER
from mapolab.reading import read_object


class FolderWriter:
    """A new folder for the `with` block; it takes its place, flushed to the disk, when the block ends without error."""

    def __init__(self, path: Path):
        self.path = path
        self.temporary = path.parent / f".{path.name}.{secrets.token_hex(4)}.tmp"

    def __enter__(self) -> Path:
        make_folder(self.temporary.parent)
        self.temporary.mkdir()
        return self.temporary

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, *_: Any) -> None:
        if kind is None:
            return self.place(self.temporary)
        shutil.rmtree(self.temporary, ignore_errors=True)
        if isinstance(error, Exception):
            with errors_of(self.path):
                raise error

    def place(self, temporary: Path) -> None:
        """Flush a written folder and give it its name, in the stead of one that has it."""
        for folder, _, _ in os.walk(temporary):
            fsync_folder(folder)
        if self.path.exists():
            discard(self.path)
        temporary.rename(self.path)
        fsync_folder(self.path.parent)


def hashes(folder: Path, known: dict[str, str] | None = None) -> dict[str, str]:
    """relative path -> SHA-256 of each file in the folder but its manifest. known: those that need no reading."""
    files = sorted(file for file in folder.rglob("*") if file.is_file() and file.name != "manifest.json")
    names = {file.relative_to(folder).as_posix(): file for file in files}
    return {name: (known or {}).get(name) or sha256(file) for name, file in names.items()}


class FolderManifest(TypedDict, total=False):
    """Of a checkpoint, or of a round's pictures. files: relative path -> SHA-256."""

    files: Required[dict[str, str]]
    format: int
    step: int


def read_folder_manifest(folder: Path) -> FolderManifest:
    """Raises UserError for one that is not whole."""
    return read_object(folder / "manifest.json", FolderManifest, "Restore the folder.")


def fault(folder: Path) -> str | None:
    """What is wrong with a checkpoint, or None if every file is there and as it was written."""
    try:
        recorded = read_folder_manifest(folder)["files"]
        found = hashes(folder)
    except UserError as error:
        return f"its manifest is unreadable: {error}"
    except OSError as error:
        return f"it cannot be read ({type(error).__name__})"
    damaged = sorted(name for name in recorded if found.get(name) != recorded[name])
    return f"{damaged[0]} is missing or damaged" if damaged else None


def sweep(path: Path, name: str | None = None) -> None:
    """Remove what a killed process left half-written in a folder of such folders; only for the holder of its lock.

    name: of one folder's leftovers, where others beside it may be at work.
    """
    files.sweep(path)
    ours = UNFINISHED_FOLDER if name is None else re.compile(rf"\.{re.escape(name)}\.[0-9a-f]{{8}}\.tmp")
    for leftover in path.iterdir() if path.is_dir() else ():
        if ours.fullmatch(leftover.name):
            _remove(leftover)


def discard(folder: Path) -> None:
    """Remove a folder: first its name, in one step, then its content."""
    doomed = folder.parent / f".{folder.name}.{secrets.token_hex(4)}.tmp"
    folder.rename(doomed)
    _remove(doomed)


def _remove(folder: Path) -> None:
    """No link is followed."""
    if folder.is_symlink():
        folder.unlink()
    else:
        shutil.rmtree(folder, ignore_errors=True)
