"""The folder of an export: whole or absent. Its export.json has the settings that made it and each file's size."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mapolab.errors import UserError
from mapolab.files import read_json, write_json
from mapolab.output import EXPORT, Lock, OutputFolder
from mapolab.runs import differences
from mapolab.training.folders import FolderWriter, sweep

MANIFEST = EXPORT.manifest


class ExportFolder:
    """`to` of an export. The lock lies beside it: the folder takes its place only when it is whole."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.output = OutputFolder(path, EXPORT)
        self.real = Path(os.path.realpath(path))  # a link stays one, and what it leads to is written
        self.lock = Lock(self.real.parent / f".{self.real.name}.lock")

    def manifest(self) -> dict[str, Any]:
        """Empty where there is no export. Raises UserError for a folder that holds something else."""
        self.output.check()
        return read_json(self.path / MANIFEST) if (self.path / MANIFEST).is_file() else {}

    def files(self) -> list[str]:
        """What the export wrote, by names relative to the folder, without export.json."""
        return list(self.manifest().get("files", {}))

    def is_whole(self) -> bool:
        """Whether every file of an export is there, in the size in which it was written."""
        files = self.manifest().get("files", {})
        return bool(files) and all(_size(self.path / name) == size for name, size in files.items())

    def is_finished(self, settings: dict[str, Any]) -> bool:
        """Whether all of this export is there. Raises UserError where the folder holds another one, or files that no
        export wrote and that would be lost with it."""
        manifest = self.manifest()
        if manifest and (changed := differences(manifest["settings"], settings)):
            raise UserError(
                f"{self.path} holds another export ({'; '.join(changed)}). Remove it, or give another folder as to=..."
            )
        if self.is_whole():
            return True
        if manifest and (others := sorted(_names(self.path) - {*manifest["files"], MANIFEST})):
            raise UserError(
                f"The export in {self.path} lacks files, and beside the others lies {others[0]}, which no export wrote "
                "and which would be lost. Move it elsewhere, or give another folder as to=..."
            )
        return False

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other exports to the same place out for the block, and sweep what a killed one left."""
        self.output.check()
        if os.path.ismount(self.real):
            raise UserError(
                f"A disk is mounted at {self.path}, so no folder can take its place. Name one in it: to=..."
            )
        self.real.parent.mkdir(parents=True, exist_ok=True)
        if not self.lock.acquire():
            raise UserError(f"Another process exports to {self.path}. Wait for it, or give another folder as to=...")
        try:
            sweep(self.real.parent, self.real.name)
            yield
        finally:
            self.lock.release(remove=True)

    @contextlib.contextmanager
    def written(self, settings: dict[str, Any]) -> Iterator[Path]:
        """A new folder for the block; when that ends without error, it takes its place with export.json."""
        with FolderWriter(self.real) as folder:
            yield folder
            files = {name: _size(folder / name) for name in sorted(_names(folder))}
            write_json(folder / MANIFEST, {"settings": settings, "files": files})
            self.lock.check()


def _names(folder: Path) -> set[str]:
    return {file.relative_to(folder).as_posix() for file in folder.rglob("*") if not file.is_dir()}


def _size(file: Path) -> int | None:
    """None for what is no file, and for a link, which is none of ours."""
    return file.stat().st_size if file.is_file() and not file.is_symlink() else None
